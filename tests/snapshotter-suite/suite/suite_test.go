// Package suite runs containerd's own SnapshotterSuite against snapshotters that are served over a unix socket.
//
// SUITE_SERVER is a line for sh that serves until SIGTERM. Every subtest starts one of its own, with the variables
//
//	ROOT    an empty directory for what it keeps
//	STATE   a short path that does not exist, for what it mounts
//	SOCKET  where it listens
//
// SUITE_STRICT=1 asks for more than the suite does: when a subtest is over, removing all snapshots and Cleanup leave no
// directory and no mount, and the server ends with status 0.
//
// testdata/snapshotter-suite.sh builds it from Debian's packages.
package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/containerd/log"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// How long a server may take to listen and to end.
const patience = 20 * time.Second

func TestSnapshotter(t *testing.T) {
	if os.Getenv("SUITE_SERVER") == "" {
		t.Fatal("SUITE_SERVER is not set")
	}
	// With this name the suite does not rename directories of lower layers, which overlayfs refuses without redirect_dir.
	// Since 2.2 it knows that of "erofs" too.
	testsuite.SnapshotterSuite(t, "overlayfs", start)
}

// server is one started SUITE_SERVER.
type server struct {
	command *exec.Cmd
	ended   chan error
	root    string
	state   string
	logFile string
}

func start(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	state, err := os.MkdirTemp("/run", "s")
	if err != nil {
		return nil, nil, err
	}
	dir := filepath.Dir(root)
	socket := filepath.Join(dir, "socket")
	s := &server{root: root, state: state, logFile: filepath.Join(dir, "log"), ended: make(chan error, 1)}
	out, err := os.Create(s.logFile)
	if err != nil {
		return nil, nil, err
	}
	defer out.Close()
	s.command = exec.Command("sh", "-c", os.Getenv("SUITE_SERVER"))
	s.command.Env = append(os.Environ(), "ROOT="+root, "STATE="+filepath.Join(state, "m"), "SOCKET="+socket)
	s.command.Stdout, s.command.Stderr = out, out
	if err := s.command.Start(); err != nil {
		return nil, nil, err
	}
	go func() { s.ended <- s.command.Wait() }()
	if err := s.listens(socket); err != nil {
		s.showLog(ctx)
		return nil, nil, err
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, err
	}
	served := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "erofs")
	activated := &activator{Snapshotter: served, dir: filepath.Join(state, "t"), writable: map[string]string{}}
	cleanup := func() error {
		defer conn.Close()
		err := errors.Join(activated.deactivate(), s.empty(ctx, served), s.stop(), s.leftMounts())
		s.showLog(ctx)
		return errors.Join(err, os.RemoveAll(state))
	}
	return activated, cleanup, nil
}

// listens waits for the socket.
func (s *server) listens(socket string) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return nil
		}
		select {
		case err := <-s.ended:
			s.ended <- err
			return fmt.Errorf("the server ended at once: %v", err)
		default:
		}
	}
	return fmt.Errorf("no socket %s after %s", socket, patience)
}

// showLog writes the server's log into that of the subtest, which is shown when it fails.
func (s *server) showLog(ctx context.Context) {
	text, _ := os.ReadFile(s.logFile)
	log.G(ctx).Info("the server's log:\n" + string(text))
}

// empty removes every snapshot, leaves first, and asks that nothing stays.
func (s *server) empty(ctx context.Context, served snapshots.Snapshotter) error {
	if os.Getenv("SUITE_STRICT") != "1" {
		return nil
	}
	for {
		parents, names := map[string]bool{}, []string{}
		if err := served.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
			parents[info.Parent] = true
			names = append(names, info.Name)
			return nil
		}); err != nil {
			return fmt.Errorf("walk: %w", err)
		}
		if len(names) == 0 {
			break
		}
		for _, name := range names {
			if parents[name] {
				continue
			}
			if err := served.Remove(ctx, name); err != nil {
				return fmt.Errorf("remove %s: %w", name, err)
			}
		}
	}
	if err := served.(snapshots.Cleaner).Cleanup(ctx); err != nil {
		return fmt.Errorf("cleanup: %w", err)
	}
	left, err := os.ReadDir(filepath.Join(s.root, "snapshots"))
	if err != nil || len(left) > 0 {
		return fmt.Errorf("after removal of every snapshot: %v: %v", err, left)
	}
	return nil
}

func (s *server) stop() error {
	if err := s.command.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("the server is gone: %w", err)
	}
	select {
	case err := <-s.ended:
		if os.Getenv("SUITE_STRICT") == "1" && err != nil {
			return fmt.Errorf("the server ended: %w", err)
		}
		return nil
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("the server runs %s after SIGTERM", patience), s.command.Process.Kill())
	}
}

// leftMounts unmounts what lies below the root and the state, and when it is strict says so.
func (s *server) leftMounts() error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var left []string
	for _, line := range strings.Split(string(text), "\n") {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := fields[4]
		if strings.HasPrefix(point, s.root+"/") || strings.HasPrefix(point, s.state+"/") {
			left = append(left, point)
			_ = syscall.Unmount(point, syscall.MNT_DETACH)
		}
	}
	if os.Getenv("SUITE_STRICT") == "1" && len(left) > 0 {
		return fmt.Errorf("left mounted: %v", left)
	}
	return nil
}
