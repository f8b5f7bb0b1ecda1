// Command containerd-apply unpacks layer archives with containerd's own code (pkg/archive, Apply), the reference that the
// tests compare erolith's tree with.
//
//	containerd-apply [--overlay] [--parents DIR:...] DIR <layer.tar
//	containerd-apply [--overlay] --batch LIST
//
// Without --overlay whiteouts delete what they name, as on a plain directory; with it they become what the overlay
// snapshotter keeps: character devices 0:0 and trusted.overlay.opaque. --parents names the lower directories, nearest
// first, from which implicit parents take their attributes. Exit status: 0 applied, 1 refused (why: on standard error).
//
// LIST has lines "TAR DIR" without spaces in either name. One line comes out for each, in order: "TAR<tab>ok" or
// "TAR<tab>error<tab>message"; the status is then 0 whatever the answers.
//
// testdata/oracle.sh builds it from Debian's packages.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/log"
)

func main() {
	overlay := flag.Bool("overlay", false, "convert whiteouts to overlayfs form")
	parents := flag.String("parents", "", "lower directories, nearest first, colon-separated")
	batch := flag.String("batch", "", "file with lines \"TAR DIR\"")
	flag.Parse()
	// Warnings on standard error would be read as refusals.
	_ = log.SetLevel("error")

	var opts []archive.ApplyOpt
	if *overlay {
		opts = append(opts, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
	}
	if *parents != "" {
		opts = append(opts, archive.WithParents(strings.Split(*parents, ":")))
	}
	var err error
	switch {
	case *batch != "" && flag.NArg() == 0:
		err = applyAll(*batch, opts)
	case *batch == "" && flag.NArg() == 1:
		err = apply(os.Stdin, flag.Arg(0), opts)
	default:
		flag.Usage()
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// apply unpacks one archive onto dir, which it makes if missing, and reads the stream to its end as containerd does.
func apply(layer io.Reader, dir string, opts []archive.ApplyOpt) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v", cause)
		}
	}()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if _, err := archive.Apply(context.Background(), dir, layer, opts...); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, layer)
	return err
}

func applyAll(list string, opts []archive.ApplyOpt) error {
	lines, err := os.Open(list)
	if err != nil {
		return err
	}
	defer lines.Close()
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	oneLine := strings.NewReplacer("\n", " ", "\t", " ")

	scanner := bufio.NewScanner(lines)
	for scanner.Scan() {
		tar, dir, ok := strings.Cut(scanner.Text(), " ")
		if !ok {
			return fmt.Errorf("%s: not \"TAR DIR\": %q", list, scanner.Text())
		}
		if err := applyFile(tar, dir, opts); err != nil {
			fmt.Fprintf(out, "%s\terror\t%s\n", tar, oneLine.Replace(err.Error()))
		} else {
			fmt.Fprintf(out, "%s\tok\n", tar)
		}
	}
	return scanner.Err()
}

func applyFile(tar, dir string, opts []archive.ApplyOpt) error {
	layer, err := os.Open(tar)
	if err != nil {
		return err
	}
	defer layer.Close()
	return apply(layer, dir, opts)
}
