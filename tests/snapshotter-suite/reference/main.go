// Command erofs-reference serves containerd's built-in EROFS snapshotter over a unix socket, as an external one would be:
// what tests and measurements of erolith compare it with. It needs mkfs.erofs in PATH.
//
//	erofs-reference --root DIR --address SOCKET
//
// testdata/snapshotter-suite.sh builds it from Debian's packages.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/plugins/snapshots/erofs"
	"google.golang.org/grpc"
)

func main() {
	root := flag.String("root", "", "where snapshots are kept")
	address := flag.String("address", "", "the unix socket")
	flag.Parse()
	if err := serve(*root, *address); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(root, address string) error {
	snapshotter, err := erofs.NewSnapshotter(root)
	if err != nil {
		return err
	}
	defer snapshotter.Close()
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
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
