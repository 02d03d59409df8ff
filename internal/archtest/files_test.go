// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"bytes"
	"path"
	"regexp"
	"strings"
	"testing"
)

// Go and everything around it is Apache-2.0. The kernel programs are under the
// GPL, because the kernel lends some helpers to GPL programs only, or under
// BSD-2-Clause, so that others may take the headers; see bpf/README.md.
const (
	apache = "SPDX-License-Identifier: Apache-2.0"
	dual   = "SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)"
)

func TestEveryFileNamesItsLicence(t *testing.T) {
	tr := load(t)
	for _, s := range tr.code {
		content := string(read(t, s.name))
		if !s.generated && !strings.HasPrefix(content, "// "+apache+"\n\n") {
			t.Errorf("%s: does not begin with %q and an empty line", s.name, "// "+apache)
		}
	}
	for _, name := range tr.files {
		head, _, _ := bytes.Cut(read(t, name), []byte("\n\n"))
		switch ext := path.Ext(name); {
		case ext == ".c" || ext == ".h":
			if !bytes.HasPrefix(head, []byte("/* "+dual+" */\n")) {
				t.Errorf("%s: does not begin with %q", name, "/* "+dual+" */")
			}
		case bytes.HasPrefix(head, []byte("#!")):
			if !bytes.Contains(head, []byte("# "+apache)) {
				t.Errorf("%s: its head does not say %q", name, "# "+apache)
			}
		}
	}
}

// A path of one developer's machine in a file, or in the debug information of
// an object, works nowhere else.
func TestNoFileNamesAPathOfThisMachine(t *testing.T) {
	private := regexp.MustCompile(`(^|[^\w./~-])/(wo` + `rk|ro` + `ot|ho` + `me/\w+)/[\w.-]*`)
	for _, name := range load(t).files {
		if name == "beeline" { // what `make build` leaves; not part of the repository
			continue
		}
		if found := private.Find(read(t, name)); found != nil {
			t.Errorf("%s: names %q", name, found)
		}
	}
}
