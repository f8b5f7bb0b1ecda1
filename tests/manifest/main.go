// manifest-check reads manifests of Kubernetes from its input and decodes them into Kubernetes' own types, strictly: a field
// that a kind does not have is an error. It prints the kind and the name of each.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"
)

func check(document []byte) error {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(document, &kind); err != nil {
		return err
	}
	var object metav1.Object
	switch kind.APIVersion + " " + kind.Kind {
	case "v1 Namespace":
		object = &corev1.Namespace{}
	case "apps/v1 DaemonSet":
		object = &appsv1.DaemonSet{}
	default:
		return fmt.Errorf("unknown kind %s %s", kind.APIVersion, kind.Kind)
	}
	if err := yaml.UnmarshalStrict(document, object); err != nil {
		return err
	}
	if set, ok := object.(*appsv1.DaemonSet); ok {
		selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
		if err != nil {
			return err
		}
		if selector.Empty() || !selector.Matches(labels.Set(set.Spec.Template.Labels)) {
			return errors.New("the selector does not match the labels of its pods")
		}
		if len(set.Spec.Template.Spec.Containers) == 0 {
			return errors.New("no containers")
		}
	}
	fmt.Println(kind.Kind, object.GetName())
	return nil
}

func main() {
	text, err := io.ReadAll(os.Stdin)
	for _, document := range bytes.Split(text, []byte("\n---\n")) {
		if err == nil {
			err = check(document)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
