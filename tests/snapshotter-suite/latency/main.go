// Command snapshotter-latency measures the calls of a snapshotter that is served over a unix socket, from the client's side.
//
//	snapshotter-latency --address SOCKET --layer IMAGE [--snapshots N] [--calls N]
//
// It commits N snapshots, in chains of ten, whose layers are hard links to IMAGE, as a differ leaves them; then it makes calls
// on top of one of the chains and writes one JSON object: for each kind of call its p50 and p99 in seconds.
//
// testdata/snapshotter-suite.sh builds it from Debian's packages.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Snapshots of one chain.
const depth = 10

// Chains that are made at the same time.
const makers = 8

type quantiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

func main() {
	address := flag.String("address", "", "the unix socket")
	layer := flag.String("layer", "", "an EROFS image")
	count := flag.Int("snapshots", depth, "committed snapshots, a multiple of ten")
	calls := flag.Int("calls", 500, "calls of each kind")
	flag.Parse()
	conn, err := grpc.NewClient("unix://"+*address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err == nil {
		served := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "erofs")
		err = measure(namespaces.WithNamespace(context.Background(), "latency"), served, *layer, *count, *calls)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, sn snapshots.Snapshotter, layer string, count, calls int) error {
	if err := chains(ctx, sn, layer, count); err != nil {
		return err
	}
	parent := fmt.Sprintf("chain-0-%d", depth-1)
	key := func(i int) string { return fmt.Sprintf("call-%d", i) }
	kinds := []struct {
		name string
		call func(int) error
	}{
		{"Prepare", func(i int) error { _, err := sn.Prepare(ctx, key(i), parent); return err }},
		{"Mounts", func(i int) error { _, err := sn.Mounts(ctx, key(i)); return err }},
		{"Stat", func(i int) error { _, err := sn.Stat(ctx, key(i)); return err }},
		{"Usage", func(i int) error { _, err := sn.Usage(ctx, key(i)); return err }},
		{"Remove", func(i int) error { return sn.Remove(ctx, key(i)) }},
	}
	out := map[string]quantiles{}
	for _, kind := range kinds {
		times := make([]time.Duration, calls)
		for i := range times {
			start := time.Now()
			if err := kind.call(i); err != nil {
				return fmt.Errorf("%s: %w", kind.name, err)
			}
			times[i] = time.Since(start)
		}
		out[kind.name] = summary(times)
	}
	var err error
	if out["Commit"], err = commits(ctx, sn, layer, calls); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func summary(times []time.Duration) quantiles {
	slices.Sort(times)
	at := func(percent int) float64 { return times[(len(times)-1)*percent/100].Seconds() }
	return quantiles{at(50), at(99)}
}

// chains commits the snapshots, several chains at a time, and lets the snapshotter tidy up as containerd's garbage collection does.
func chains(ctx context.Context, sn snapshots.Snapshotter, layer string, count int) error {
	numbers := make(chan int)
	errs := make(chan error)
	for range makers {
		go func() {
			var err error
			for number := range numbers {
				if err == nil {
					err = chain(ctx, sn, layer, number)
				}
			}
			errs <- err
		}()
	}
	for number := range count / depth {
		numbers <- number
	}
	close(numbers)
	var err error
	for range makers {
		err = errors.Join(err, <-errs)
	}
	if err != nil {
		return err
	}
	// A snapshotter that tidies up in Remove has no Cleanup.
	if err := sn.(snapshots.Cleaner).Cleanup(ctx); !errdefs.IsNotImplemented(err) {
		return err
	}
	return nil
}

func chain(ctx context.Context, sn snapshots.Snapshotter, layer string, number int) error {
	key, parent := fmt.Sprintf("making-%d", number), ""
	for level := range depth {
		name := fmt.Sprintf("chain-%d-%d", number, level)
		if err := filled(ctx, sn, key, parent, layer); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := sn.Commit(ctx, name, key); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		parent = name
	}
	return nil
}

// commits measures Commit after a differ has filled the layer.
func commits(ctx context.Context, sn snapshots.Snapshotter, layer string, calls int) (quantiles, error) {
	times := make([]time.Duration, calls)
	for i := range times {
		key := fmt.Sprintf("commit-%d", i)
		if err := filled(ctx, sn, key, "", layer); err != nil {
			return quantiles{}, err
		}
		start := time.Now()
		if err := sn.Commit(ctx, key+"-done", key); err != nil {
			return quantiles{}, err
		}
		times[i] = time.Since(start)
	}
	return summary(times), nil
}

// filled prepares a snapshot and puts the image where a differ would.
func filled(ctx context.Context, sn snapshots.Snapshotter, key, parent, layer string) error {
	mounts, err := sn.Prepare(ctx, key, parent)
	if err != nil {
		return err
	}
	dir, err := layerDir(mounts)
	if err != nil {
		return err
	}
	return os.Link(layer, filepath.Join(dir, "layer.erofs"))
}

// layerDir is where a differ finds that the layer goes.
func layerDir(mounts []mount.Mount) (string, error) {
	last := mounts[len(mounts)-1]
	if last.Type == "bind" {
		return filepath.Dir(last.Source), nil
	}
	for _, option := range last.Options {
		if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
			return filepath.Dir(upper), nil
		}
	}
	return "", fmt.Errorf("no layer in %v", mounts)
}
