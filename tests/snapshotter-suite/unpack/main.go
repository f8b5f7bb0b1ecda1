// Command layer-unpacker unpacks the layers of an image through a snapshotter and differ that are served over one unix
// socket, with the calls and labels of containerd 2.2 and later, which unpacks several layers side by side.
//
//	layer-unpacker --address SOCKET --layout DIR [--parallel N]    unpacks the one image of an OCI layout
//	layer-unpacker --address SOCKET --layout DIR --remove          removes its snapshots
//
// The blobs are already in containerd's content store, namespace `default`. With one layer at a time, each is prepared on the one below,
// as containerd 2.1 does; with more, each is prepared without a parent, which its Commit names.
//
// testdata/snapshotter-suite.sh builds it from Debian's packages.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
)

// CommitSnapshotRequest.parent of containerd 2.2, which Debian's API does not know yet.
const commitParent = 5

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

type layer struct {
	blob          descriptor
	diffID        string
	chain, parent string
}

type node struct {
	snapshots snapshotsapi.SnapshotsClient
	diff      diffapi.DiffClient
}

func main() {
	address := flag.String("address", "", "the unix socket")
	layout := flag.String("layout", "", "an OCI layout with one image")
	parallel := flag.Int("parallel", 1, "layers at a time")
	remove := flag.Bool("remove", false, "remove the snapshots")
	flag.Parse()
	if err := run(*address, *layout, *parallel, *remove); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(address, layout string, parallel int, remove bool) error {
	layers, err := read(layout)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	n := node{snapshotsapi.NewSnapshotsClient(conn), diffapi.NewDiffClient(conn)}
	ctx := namespaces.WithNamespace(context.Background(), "default")
	switch {
	case remove:
		return n.remove(ctx, layers)
	case parallel > 1:
		return n.sideBySide(ctx, layers, parallel)
	default:
		return n.inTurn(ctx, layers)
	}
}

func (n node) inTurn(ctx context.Context, layers []layer) error {
	for _, l := range layers {
		if err := n.unpack(ctx, l, l.parent); err != nil {
			return err
		}
		if err := n.commit(ctx, l, ""); err != nil {
			return err
		}
	}
	return nil
}

func (n node) sideBySide(ctx context.Context, layers []layer, parallel int) error {
	group, limited := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, l := range layers {
		group.Go(func() error { return n.unpack(limited, l, "") })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, l := range layers {
		if err := n.commit(ctx, l, l.parent); err != nil {
			return err
		}
	}
	return nil
}

func (n node) unpack(ctx context.Context, l layer, parent string) error {
	labels := map[string]string{
		"containerd.io/snapshot.ref":              l.chain,
		"containerd.io/snapshot/diff-id":          l.diffID,
		"containerd.io/snapshot/parent-chain-id":  l.parent,
		"containerd.io/snapshot/layer-media-type": l.blob.MediaType,
	}
	prepared, err := n.snapshots.Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{
		Snapshotter: "erolith", Key: "extract-" + l.chain, Parent: parent, Labels: labels,
	})
	if err != nil {
		return fmt.Errorf("prepare %s: %w", l.chain, err)
	}
	applied, err := n.diff.Apply(ctx, &diffapi.ApplyRequest{
		Diff:   &types.Descriptor{MediaType: l.blob.MediaType, Digest: l.blob.Digest, Size: l.blob.Size},
		Mounts: prepared.Mounts,
	})
	if err != nil {
		return fmt.Errorf("apply %s: %w", l.blob.Digest, err)
	}
	if applied.Applied.Digest != l.diffID {
		return fmt.Errorf("apply %s: diffID %s, not %s", l.blob.Digest, applied.Applied.Digest, l.diffID)
	}
	return nil
}

func (n node) commit(ctx context.Context, l layer, parent string) error {
	request := &snapshotsapi.CommitSnapshotRequest{Snapshotter: "erolith", Name: l.chain, Key: "extract-" + l.chain}
	if parent != "" {
		field := protowire.AppendTag(nil, commitParent, protowire.BytesType)
		request.ProtoReflect().SetUnknown(protowire.AppendString(field, parent))
	}
	if _, err := n.snapshots.Commit(ctx, request); err != nil {
		return fmt.Errorf("commit %s: %w", l.chain, err)
	}
	return nil
}

func (n node) remove(ctx context.Context, layers []layer) error {
	for i := len(layers) - 1; i >= 0; i-- {
		request := &snapshotsapi.RemoveSnapshotRequest{Snapshotter: "erolith", Key: layers[i].chain}
		if _, err := n.snapshots.Remove(ctx, request); err != nil {
			return fmt.Errorf("remove %s: %w", layers[i].chain, err)
		}
	}
	_, err := n.snapshots.Cleanup(ctx, &snapshotsapi.CleanupRequest{Snapshotter: "erolith"})
	return err
}

// read returns the layers of a layout's one image, lowest first.
func read(layout string) ([]layer, error) {
	var index struct{ Manifests []descriptor }
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	var config struct {
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := decode(filepath.Join(layout, "index.json"), &index); err != nil {
		return nil, err
	}
	if err := decode(blob(layout, index.Manifests[0]), &manifest); err != nil {
		return nil, err
	}
	if err := decode(blob(layout, manifest.Config), &config); err != nil {
		return nil, err
	}
	var layers []layer
	parent := ""
	for i, one := range manifest.Layers {
		diffID := config.RootFS.DiffIDs[i]
		chain := diffID
		if parent != "" {
			chain = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(parent+" "+diffID)))
		}
		layers = append(layers, layer{one, diffID, chain, parent})
		parent = chain
	}
	return layers, nil
}

func blob(layout string, d descriptor) string {
	return filepath.Join(layout, "blobs", strings.ReplaceAll(d.Digest, ":", "/"))
}

func decode(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}
