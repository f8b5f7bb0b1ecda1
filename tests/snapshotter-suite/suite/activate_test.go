package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
)

// activator does for the suite of containerd 2.1 what the mount manager of 2.2 does for its own: of a list with templates it
// mounts all but the last and gives that one with the places filled in. A list of one plain mount passes untouched.
type activator struct {
	snapshots.Snapshotter
	dir    string
	lock   sync.Mutex
	lists  int
	points []string
	// Where writable filesystems are mounted, by their files: a second loop device over one would destroy it.
	writable map[string]string
}

func (a *activator) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	mounts, err := a.Snapshotter.Prepare(ctx, key, parent, opts...)
	if err != nil {
		return nil, err
	}
	return a.activate(mounts)
}

func (a *activator) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	mounts, err := a.Snapshotter.View(ctx, key, parent, opts...)
	if err != nil {
		return nil, err
	}
	return a.activate(mounts)
}

func (a *activator) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	mounts, err := a.Snapshotter.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	return a.activate(mounts)
}

func (a *activator) activate(mounts []mount.Mount) ([]mount.Mount, error) {
	if len(mounts) < 2 {
		return mounts, nil
	}
	a.lock.Lock()
	defer a.lock.Unlock()
	a.lists++
	var active []string
	last := len(mounts) - 1
	for i, lower := range mounts[:last] {
		if point, ok := a.writable[lower.Source]; ok {
			active = append(active, point)
			continue
		}
		point := filepath.Join(a.dir, strconv.Itoa(a.lists), strconv.Itoa(i))
		if err := os.MkdirAll(point, 0700); err != nil {
			return nil, err
		}
		if strings.HasPrefix(lower.Type, "mkfs/") {
			a.writable[lower.Source] = point
		}
		lower, err := made(lower)
		if err != nil {
			return nil, err
		}
		if err := lower.Mount(point); err != nil {
			return nil, fmt.Errorf("mount %d of %v: %w", i, mounts, err)
		}
		a.points = append(a.points, point)
		active = append(active, point)
	}
	final := mounts[last]
	formatted, ok := strings.CutPrefix(final.Type, "format/")
	if !ok {
		return []mount.Mount{final}, nil
	}
	final.Type = strings.TrimPrefix(formatted, "mkdir/")
	var err error
	if final.Source, err = fill(final.Source, active); err != nil {
		return nil, err
	}
	for i, option := range final.Options {
		if final.Options[i], err = fill(option, active); err != nil {
			return nil, err
		}
	}
	if final.Options, err = withDirectories(final.Options); err != nil {
		return nil, err
	}
	return []mount.Mount{final}, nil
}

// made takes `mkfs/` and its options away. The filesystem is to be there already, of the size that the options say.
func made(m mount.Mount) (mount.Mount, error) {
	plain, ok := strings.CutPrefix(m.Type, "mkfs/")
	if !ok {
		return m, nil
	}
	made := mount.Mount{Type: plain, Source: m.Source, Target: m.Target}
	size := ""
	for _, option := range m.Options {
		if value, ok := strings.CutPrefix(option, "X-containerd.mkfs.size="); ok {
			size = value
		} else if option != "X-containerd.mkfs.fs="+plain {
			made.Options = append(made.Options, option)
		}
	}
	info, err := os.Stat(m.Source)
	if err != nil {
		return m, err
	}
	if got := strconv.FormatInt(info.Size(), 10); got != size {
		return m, fmt.Errorf("%s has %s bytes, its mount says %s", m.Source, got, size)
	}
	return made, nil
}

// withDirectories makes the directories of X-containerd.mkdir.path options and takes the options away. One that is there
// has the mode that is asked for.
func withDirectories(options []string) ([]string, error) {
	var plain []string
	for _, option := range options {
		value, ok := strings.CutPrefix(option, "X-containerd.mkdir.path=")
		if !ok {
			plain = append(plain, option)
			continue
		}
		path, octal, _ := strings.Cut(value, ":")
		mode, err := strconv.ParseUint(octal, 8, 32)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", option, err)
		}
		err = os.Mkdir(path, os.FileMode(mode))
		if err != nil && !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if info.Mode().Perm() != os.FileMode(mode) {
			return nil, fmt.Errorf("%s has mode %v, its mount says %s", path, info.Mode(), octal)
		}
	}
	return plain, nil
}

var template = regexp.MustCompile(`\{\{ *(mount|overlay) +([0-9]+)(?: +([0-9]+))? *\}\}`)

// fill replaces `{{ mount N }}` and `{{ overlay FIRST LAST }}` by the places of active mounts.
func fill(text string, active []string) (string, error) {
	var failure error
	filled := template.ReplaceAllStringFunc(text, func(found string) string {
		parts := template.FindStringSubmatch(found)
		first, _ := strconv.Atoi(parts[2])
		last := first
		if parts[1] == "overlay" {
			last, _ = strconv.Atoi(parts[3])
		}
		if first > last || last >= len(active) {
			failure = fmt.Errorf("%q in %q, with %d mounts", found, text, len(active))
			return found
		}
		return strings.Join(active[first:last+1], ":")
	})
	if failure == nil && strings.Contains(filled, "{{") {
		failure = fmt.Errorf("no such template: %q", text)
	}
	return filled, failure
}

func (a *activator) deactivate() error {
	var failures []error
	for i := len(a.points) - 1; i >= 0; i-- {
		if err := mount.UnmountAll(a.points[i], 0); err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}
