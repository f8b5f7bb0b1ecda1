// Package changes runs the change sets of containerd's fstest against layers that erolith makes of an upper directory.
//
// EROLITH is the program. Each set of changes is made in an overlayfs over what the sets before it left; the layer of it
// goes where a user's goes:
//
//	TestTar    containerd's own Apply unpacks it onto a directory
//	TestErofs  the kernel mounts it over the images before it
//
// testdata/snapshotter-suite.sh builds it from Debian's packages.
package changes

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/continuity/fs/fstest"
	"golang.org/x/sys/unix"
)

func TestTar(t *testing.T) { fstest.FSSuite(t, suite{open: openTar}) }

func TestErofs(t *testing.T) { fstest.FSSuite(t, suite{open: openErofs}) }

// layers is what the layers so far are kept as.
type layers interface {
	// lowers are the layers for `--lower`, the topmost first, and a directory with what all of them show. The container
	// is mounted over that: overlayfs has no index over several filesystems without a UUID.
	lowers() (layers []string, dir string)
	// format says what layer is to be made.
	format() []string
	// add puts one on top.
	add(layer string) error
	// tree shows all of them.
	tree() (dir string, cleanup func(), err error)
	close()
}

type suite struct {
	open func(scratch string) (layers, error)
}

type state struct {
	scratch string
	layers  layers
	count   int
}

type key struct{}

func (s suite) TestContext(ctx context.Context) (context.Context, func(), error) {
	scratch, err := os.MkdirTemp("", "changes-")
	if err != nil {
		return nil, nil, err
	}
	layers, err := s.open(scratch)
	if err != nil {
		return nil, nil, err
	}
	cleanup := func() {
		layers.close()
		os.RemoveAll(scratch)
	}
	return context.WithValue(ctx, key{}, &state{scratch: scratch, layers: layers}), cleanup, nil
}

func (suite) Apply(ctx context.Context, change fstest.Applier) (string, func(), error) {
	state := ctx.Value(key{}).(*state)
	state.count++
	scratch := filepath.Join(state.scratch, fmt.Sprint(state.count))
	upper, merged, layer := filepath.Join(scratch, "upper"), filepath.Join(scratch, "merged"), filepath.Join(scratch, "layer")
	for _, dir := range []string{upper, merged, filepath.Join(scratch, "work")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", nil, err
		}
	}
	lowers, dir := state.layers.lowers()
	// With an index, what is written by one of a file's names is in the others too, as it is where fstest makes its changes.
	options := fmt.Sprintf("index=on,redirect_dir=on,lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, filepath.Join(scratch, "work"))
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return "", nil, fmt.Errorf("overlay: %w", err)
	}
	err := change.Apply(merged)
	if err := unix.Unmount(merged, 0); err != nil {
		return "", nil, err
	}
	if err != nil {
		return "", nil, err
	}
	args := append([]string{"commit", "--quiet", "--upper", upper, "--output", layer}, state.layers.format()...)
	for _, lower := range lowers {
		args = append(args, "--lower", lower)
	}
	if err := run(os.Getenv("EROLITH"), args...); err != nil {
		return "", nil, err
	}
	if err := state.layers.add(layer); err != nil {
		return "", nil, err
	}
	return state.layers.tree()
}

// tar is one directory, onto which containerd unpacks.
type tar struct{ dir string }

func openTar(scratch string) (layers, error) {
	dir := filepath.Join(scratch, "tree")
	return tar{dir}, os.Mkdir(dir, 0o755)
}

func (t tar) lowers() ([]string, string)    { return []string{t.dir}, t.dir }
func (t tar) format() []string              { return []string{"--compression", "none"} }
func (t tar) tree() (string, func(), error) { return t.dir, nil, nil }
func (t tar) close()                        {}

func (t tar) add(layer string) error {
	file, err := os.Open(layer)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = archive.Apply(context.Background(), t.dir, file)
	return err
}

// erofs is images that are mounted.
type erofs struct {
	scratch, copy string
	mounts        []string
}

func openErofs(scratch string) (layers, error) {
	empty := filepath.Join(scratch, "empty")
	return &erofs{scratch: scratch, copy: empty, mounts: []string{empty}}, os.Mkdir(empty, 0o755)
}

// An index of an overlay names files by their handles, so the layer below is the parent of the container.
func (e *erofs) lowers() ([]string, string) { return []string{e.copy}, e.copy }

func (e *erofs) format() []string { return []string{"--format", "erofs"} }

func (e *erofs) add(image string) error {
	dir := image + ".mounted"
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := run("mount", "-t", "erofs", "-o", "ro,loop", image, dir); err != nil {
		return err
	}
	e.mounts = append([]string{dir}, e.mounts...)
	tree, cleanup, err := e.tree()
	if err != nil {
		return err
	}
	defer cleanup()
	e.copy = image + ".copy"
	return run("cp", "-a", tree, e.copy)
}

func (e *erofs) tree() (string, func(), error) {
	dir := filepath.Join(e.scratch, "tree")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	options := "lowerdir=" + strings.Join(e.mounts, ":")
	if err := unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY, options); err != nil {
		return "", nil, fmt.Errorf("overlay: %w", err)
	}
	return dir, func() { _ = unix.Unmount(dir, 0) }, nil
}

func (e *erofs) close() {
	for _, dir := range e.mounts {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
	}
}

func run(program string, args ...string) error {
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", program, args, err, out)
	}
	return nil
}
