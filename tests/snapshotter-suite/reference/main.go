// Command erofs-reference serves containerd's built-in EROFS snapshotter over a unix socket, as an external one would be:
// what tests and measurements of erolith compare it with. It needs mkfs.erofs in PATH.
//
//	erofs-reference --root DIR --address SOCKET [--content DIR]
//
// With the directory of containerd's content store it serves containerd's EROFS differ, too, which reads blobs there. Both
// are as containerd makes them by default. testdata/snapshotter-suite.sh builds it from Debian's packages.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/diffservice"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/plugins/content/local"
	differ "github.com/containerd/containerd/v2/plugins/diff/erofs"
	"github.com/containerd/containerd/v2/plugins/snapshots/erofs"
	"google.golang.org/grpc"
)

func main() {
	root := flag.String("root", "", "where snapshots are kept")
	address := flag.String("address", "", "the unix socket")
	blobs := flag.String("content", "", "the content store; empty for no differ")
	flag.Parse()
	if err := serve(*root, *address, *blobs); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(root, address, blobs string) error {
	snapshotter, err := erofs.NewSnapshotter(root)
	if err != nil {
		return err
	}
	defer snapshotter.Close()
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	if blobs != "" {
		store, err := local.NewStore(blobs)
		if err != nil {
			return err
		}
		both := differ.NewErofsDiffer(store, nil)
		diffapi.RegisterDiffServer(server, diffservice.FromApplierAndComparer(both, both))
	}
	listener, err := net.Listen("unix", address)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		server.GracefulStop()
	}()
	return server.Serve(listener)
}
