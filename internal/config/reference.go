// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"
	"strings"
)

//go:generate go test -run TestReferencePage -update .

const referenceIntro = `# Configuration

<!-- Generated from internal/config by "go generate ./internal/config"; do not edit. -->

` + "`beeline agent`" + ` takes its settings from, in order of precedence:

1. flags,
2. a file of kind ` + "`" + Kind + "`" + ` (` + "`" + APIVersion + "`" + `),
3. kube-proxy's file of kind ` + "`" + kubeProxyKind + "`" + ` (` + "`" + kubeProxyAPIVersion + "`" + `),
4. defaults.

` + "`--config`" + ` names a file of either kind, told apart by apiVersion and kind; it may be
given once for each. Precedence holds setting by setting, so kube-proxy's
ConfigMap can stay as it is and a small file of Beeline's adds to it.
` + "`--write-config-to FILE`" + ` writes every setting with its value and exits; without
other flags these are the defaults.

In a file of Beeline's kind, an unknown field is an error. In kube-proxy's it is a
warning, as kube-proxy itself has it. Wrong values are errors in both, and all errors
are reported together.

**Different from kube-proxy:** beside ` + "`--config`" + `, kube-proxy ignores most other
flags without a word. Here a flag counts wherever it is given, and the log says so.

When a file changes, the agent reads it again. A *live* setting takes effect at once;
the others need a restart of the agent, which traffic does not notice. A file that is
not valid any more is reported and changes nothing.
`

// Reference is the reference page of the configuration, in Markdown.
func Reference() string {
	var b strings.Builder
	b.WriteString(referenceIntro)
	b.WriteString("\n## Settings\n\nA dot in a setting's name is a level in the file. What *waits* is accepted, and has no\neffect yet: this version has no such part.\n")
	group := ""
	preset := Default()
	for _, f := range fields() {
		if title := sectionTitle(f.path); title != group {
			group = title
			fmt.Fprintf(&b, "\n### %s\n\n| setting and flag | value | default | change | what it does |\n| --- | --- | --- | --- | --- |\n", group)
		}
		b.WriteString(settingRow(f, preset))
	}
	b.WriteString(actionsTable)
	writeKubeProxy(&b)
	return b.String()
}

const actionsTable = `
## Flags that are no settings

| flag | what it does |
| --- | --- |
| ` + "`--config FILE`" + ` | reads a file, as above |
| ` + "`--write-config-to FILE`" + ` | writes the settings to a file and exits |
| ` + "`--cleanup`" + ` | removes everything of Beeline's from the kernel and exits |
| ` + "`--init-only`" + ` | prepares the host and exits |
`

func sectionTitle(path string) string {
	group, _, nested := strings.Cut(path, ".")
	if !nested {
		return "general"
	}
	return group
}

func settingRow(f field, preset Config) string {
	_, _, allowed := f.value.form()
	flag := "`--" + f.flag + "`"
	if f.short == f.flag {
		flag = "`-" + f.short + "`"
	}
	shown, _ := plain(f.value.get(&preset))
	if shown != "" {
		shown = "`" + shown + "`"
	}
	return fmt.Sprintf("| `%s`<br>%s | %s | %s | %s | %s |\n", f.path, flag, allowed, shown, f.reload, f.doc)
}

func writeKubeProxy(b *strings.Builder) {
	b.WriteString(`
## kube-proxy's configuration

Every field and flag of kube-proxy 1.37 is accepted. A field with a zero value (0, 0s,
"", false, null) counts as not given, as in kube-proxy, except where 0 or false is said
to count. What is ignored is ignored with a warning, if it is given and not zero.

kube-proxy's mode also decides about the defaults of NodePorts, so that whoever moves
to Beeline reaches what he reached before: in mode nftables, ` + "`nodePorts.addresses`" + `
is ` + "`primary`" + `; in modes nftables and ipvs, ` + "`nodePorts.localhost`" + ` is false.

### Fields of KubeProxyConfiguration

| field | what becomes of it |
| --- | --- |
`)
	for _, a := range kubeProxyFields() {
		fmt.Fprintf(b, "| `%s` | %s |\n", a.name, a.long())
	}
	b.WriteString("\n### Flags of kube-proxy\n\n| flag | what becomes of it |\n| --- | --- |\n")
	for _, a := range kubeProxyFlags() {
		fmt.Fprintf(b, "| `--%s` | %s |\n", a.name, a.long())
	}
	shared := sharedFlags()
	slices.Sort(shared)
	fmt.Fprintf(b, "\nThese flags have the same name and meaning here: `--%s`.\n", strings.Join(shared, "`, `--"))
}

// long is outcome with the conditions.
func (a alias) long() string {
	text := a.outcome()
	if a.modes != nil {
		var modes []string
		for _, m := range a.modes {
			modes = append(modes, string(m))
		}
		text += "; only in mode " + strings.Join(modes, " or ")
	}
	if a.ownZero {
		text += "; 0 and false count"
	}
	return text
}
