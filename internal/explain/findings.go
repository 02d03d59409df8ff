// SPDX-License-Identifier: Apache-2.0

package explain

// Reason is why, in one word. It is stable: scripts may compare it.
type Reason string

// The reasons.
const (
	// Translated: it works.
	Translated Reason = "Translated"
	// EstablishedFlow: the packet belongs to a flow, which is not judged again.
	EstablishedFlow Reason = "EstablishedFlow"

	// NoEndpoints and those after it: no endpoint is usable anywhere.
	NoEndpoints       Reason = "NoEndpoints"
	SelectorMatches0  Reason = "SelectorMatchesNothing"
	NotReady          Reason = "NotReady"
	WrongPortName     Reason = "WrongPortName"
	NotServing        Reason = "TerminatingNotServing"
	WrongFamily       Reason = "WrongFamily"
	EndpointsRefused  Reason = "EndpointsRefused"
	SlicesOfHeadless  Reason = "SlicesOfHeadless"
	NoLocalEndpoints  Reason = "NoLocalEndpoints"
	SourceRange       Reason = "SourceRange"
	ClusterIPOutside  Reason = "ClusterIPOutside"
	UnknownPort       Reason = "UnknownPort"
	NodePortAddress   Reason = "NodePortAddress"
	IPModeProxy       Reason = "IPModeProxy"
	HostnameOnly      Reason = "HostnameOnly"
	OtherProxy        Reason = "OtherProxy"
	Headless          Reason = "Headless"
	ExternalName      Reason = "ExternalName"
	AddressConflict   Reason = "AddressConflict"
	AddressIsEndpoint Reason = "AddressIsEndpoint"
	AddressRefused    Reason = "AddressRefused"
	UnreadableRanges  Reason = "UnreadableSourceRanges"
	NotInKernel       Reason = "NotInKernel"
	NotAService       Reason = "NotAService"
	UnassignedAddress Reason = "UnassignedAddress"
	NoClusterIP       Reason = "NoClusterIP"
	SocketsNotServed  Reason = "SocketsNotServed"
	NoPacketPath      Reason = "NoPacketPath"
	ProgramDropped    Reason = "ProgramDropped"

	// Remarks about what works.
	TerminatingOnly Reason = "TerminatingOnly"
	AffinityPins    Reason = "AffinityPins"
	HintsExclude    Reason = "HintsExclude"
	SourceNAT       Reason = "SourceNAT"
	SocketsOptedOut Reason = "SocketsOptedOut"
	// InFront: something else on the node may decide first.
	InFront Reason = "InFront"
)

// Finding is a reason with what to do about it.
type Finding struct {
	Reason  Reason `json:"reason"`
	Message string `json:"message"`
	// Mend says what to do; empty if nothing need be.
	Mend string `json:"mend,omitempty"`
}
