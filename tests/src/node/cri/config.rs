//! What a node of Kubernetes is set to: CRI's part of containerd's configuration, and the namespaces and networks of pods.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{Pull, Space, api};
use crate::node::Containerd;
use crate::tools::cache;

/// What every pod has besides its containers.
pub(super) const PAUSE: &str = "127.0.0.1:5000/pause:1";
/// The runtime class whose pods are on overlayfs.
pub const OTHER: &str = "other";

/// The users of a pod: those of the node from `first` on.
pub(super) fn map(first: u32) -> api::IdMapping {
    api::IdMapping { host_id: first, container_id: 0, length: 65536 }
}

pub(super) fn namespaces(space: Space) -> api::NamespaceOption {
    let mode = |mode: api::NamespaceMode| i32::from(mode);
    let (network, users) = match space {
        Space::Node => {
            let users =
                api::UserNamespace { mode: mode(api::NamespaceMode::Node), ..Default::default() };
            (api::NamespaceMode::Node, users)
        }
        Space::Users(first) => {
            let users = api::UserNamespace {
                mode: mode(api::NamespaceMode::Pod),
                uids: vec![map(first)],
                gids: vec![map(first)],
            };
            (api::NamespaceMode::Pod, users)
        }
    };
    api::NamespaceOption {
        network: mode(network),
        pid: mode(api::NamespaceMode::Container),
        ipc: mode(api::NamespaceMode::Pod),
        userns_options: Some(users),
    }
}

/// Where the plugins for the network of pods are; those of sid run on trixie, too.
pub(super) fn plugins() -> PathBuf {
    cache().join("sid/usr/lib/cni")
}

/// The network of pods that have one of their own.
pub(super) fn network() -> serde_json::Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/pods",
                "ranges": [[{ "subnet": "10.88.0.0/16" }]],
            },
        }],
    })
}

/// CRI's part of containerd's own configuration file.
pub(super) fn settings(place: &Path, containerd: Containerd, pull: Pull) -> String {
    let (plugins, networks) = (plugins(), place.join("cni"));
    // Where CAP_SYS_RESOURCE is missing, the score of a process cannot be lowered.
    match containerd {
        Containerd::Sid => format!(
            "[plugins.\"io.containerd.cri.v1.images\"]\n\
             stats_collect_period = 1\nuse_local_image_pull = {local}\n\
             [plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = \"{PAUSE}\"\n\
             [plugins.\"io.containerd.cri.v1.runtime\"]\nrestrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.cri.v1.runtime\".cni]\nbin_dirs = [{plugins:?}]\nconf_dir = {networks:?}\n\
             [plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.runc]\n\
             runtime_type = \"io.containerd.runc.v2\"\n\
             [plugins.\"io.containerd.cri.v1.runtime\".containerd.runtimes.{OTHER}]\n\
             runtime_type = \"io.containerd.runc.v2\"\nsnapshotter = \"overlayfs\"\n",
            local = pull == Pull::Local,
        ),
        Containerd::Trixie => format!(
            "[plugins.\"io.containerd.grpc.v1.cri\"]\n\
             sandbox_image = \"{PAUSE}\"\nrestrict_oom_score_adj = true\nstats_collect_period = 1\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = {plugins:?}\nconf_dir = {networks:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"erolith\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n\
             runtime_type = \"io.containerd.runc.v2\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.{OTHER}]\n\
             runtime_type = \"io.containerd.runc.v2\"\nsnapshotter = \"overlayfs\"\n"
        ),
    }
}
