// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
)

// serverCache is the path of a file with the API servers' addresses, for a boot
// at which nobody else tells; empty for none.
type serverCache string

// cachedServers is the file's content.
type cachedServers struct {
	Servers []netip.AddrPort `json:"apiServers"`
}

// read returns what is there; a file that does not exist is empty.
func (c serverCache) read() ([]netip.AddrPort, error) {
	if c == "" {
		return nil, nil
	}
	data, err := os.ReadFile(string(c))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read API servers' addresses: %w", err)
	}
	var content cachedServers
	if err := json.Unmarshal(data, &content); err != nil {
		return nil, fmt.Errorf("read API servers' addresses: %s: %w", string(c), err)
	}
	return content.Servers, nil
}

// write replaces the file in one step, so that a crash or a full disk leaves
// the old one.
func (c serverCache) write(all []netip.AddrPort) (err error) {
	if c == "" {
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write API servers' addresses: %w", err)
		}
	}()
	data, err := json.Marshal(cachedServers{all})
	if err != nil {
		return err
	}
	dir := filepath.Dir(string(c))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, filepath.Base(string(c))+".*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(temp.Name()) }() // gone already if all went well
	_, err = temp.Write(append(data, '\n'))
	if err := errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return err
	}
	return os.Rename(temp.Name(), string(c))
}
