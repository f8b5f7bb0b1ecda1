//! What a node with the daemon needs besides a kernel: its places, its answers, and a containerd that knows it.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use erolith_differ::sandbox::Worker;
use erolith_snapshotter::kernel::{Feature, KernelCaps, fs_type};
use erolith_snapshotter::service::LimitBy;
use tokio::runtime::Builder;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::containerd::{Answer, Facts};
use super::files::Files;
use super::{Row, socket};
use crate::causes::causes;
use crate::proto::introspection::PluginsRequest;
use crate::proto::introspection::introspection_client::IntrospectionClient;
use crate::proto::version::version_client::VersionClient;
use crate::serve::config::Config;

/// Longest wait for an answer from a socket.
const PATIENCE: Duration = Duration::from_secs(5);
/// Layers that containerd's own snapshotter for overlayfs can stack.
const USUAL_LAYERS: usize = 128;

/// Features of the root's filesystem without which containers cannot start.
pub(super) const NEEDED: [Feature; 3] =
    [Feature::OverlayUpper, Feature::DirTypes, Feature::TmpFile];

/// The nearest directory above `path` that is there, or `path` itself.
pub(super) fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"))
}

/// Looks at everything. `caps` were found in the root; `containerd` is containerd's configuration.
pub(super) fn rows(config: &Config, caps: &KernelCaps, containerd: &Path) -> Vec<Row> {
    let mut rows = vec![root(config, caps), hard_links(config), state(config), layers(config)];
    rows.push(limits(config, caps));
    rows.push(sandbox(config));
    let missing = |name, needed: &[Feature]| {
        let missing = needed.iter().filter(|feature| !caps.has(**feature));
        let names: Vec<_> = missing.map(|feature| feature.name()).collect();
        let advice = "see what is said of them above";
        Row::found(name, names.is_empty(), list(&names, "all there"), advice).required()
    };
    rows.push(missing("root-filesystem", &NEEDED));
    rows.extend([daemon(config), socket::row(&config.address)]);
    rows.extend(containerd_rows(config, containerd));
    rows
}

fn list(names: &[&str], none: &str) -> String {
    if names.is_empty() { none.to_owned() } else { format!("missing: {}", names.join(", ")) }
}

fn root(config: &Config, caps: &KernelCaps) -> Row {
    let (root, fs_type) = (config.root.display(), &caps.place().fs_type);
    let there = if config.root.is_dir() { "" } else { ", made when the daemon starts" };
    Row::found("root", true, format!("{root} on {fs_type}{there}"), "")
}

/// A name can be given to a file of another directory on the same filesystem only.
fn hard_links(config: &Config) -> Row {
    let device = |path: &Path| existing(path).metadata().map(|metadata| metadata.dev()).ok();
    let theirs = &config.containerd.root;
    if theirs.as_os_str().is_empty() {
        return Row::untried("hard-links", "blobs are not read from containerd's directory");
    }
    let same = device(&config.root) == device(theirs);
    let word = if same { "same filesystem as" } else { "another filesystem than" };
    let evidence = format!("{word} {}", theirs.display());
    let advice =
        "layers that are EROFS images are copied; keep the root on containerd's filesystem";
    Row::found("hard-links", same, evidence, advice)
}

/// Mounts end with a boot, and so should the names that they had.
fn state(config: &Config) -> Row {
    let fs_type = fs_type(existing(&config.state));
    let evidence = format!("{} on {fs_type}", config.state.display());
    Row::found("state", fs_type == "tmpfs", evidence, "keep it on a tmpfs, as /run is")
}

fn layers(config: &Config) -> Row {
    let advice = "shorten `state` or `root`: paths of layers are options of one mount";
    match config.snapshotter().max_layers() {
        None => Row::found("option-length", true, "templates have room".to_owned(), ""),
        Some(count) => {
            let evidence = format!("room for {count} layers");
            Row::found("option-length", count >= USUAL_LAYERS, evidence, advice)
        }
    }
}

/// Which way of limiting writable layers the daemon takes, if any works.
fn limits(config: &Config, caps: &KernelCaps) -> Row {
    let chosen = config.snapshotter.limit_by.value;
    let quota = chosen != LimitBy::Image && caps.has(Feature::ProjectQuota);
    let image = chosen != LimitBy::Quota && caps.has(Feature::SizedImage);
    let evidence = match (quota, image) {
        (true, _) => "by project quota",
        (false, true) => "by images",
        (false, false) => "no way works",
    };
    let advice = "see project-quota and sized-image above; containers with a limit cannot start";
    let row = Row::found("size-limits", quota || image, evidence.to_owned(), advice);
    // Then every container has one.
    if config.snapshotter.default_size.0 > 0 { row.required() } else { row }
}

/// What protects the daemon from layers. Tried with the rights of the caller, which are the daemon's if that is root.
fn sandbox(config: &Config) -> Row {
    const NAME: &str = "layer-sandbox";
    if !config.differ.sandbox {
        return Row::untried(NAME, "switched off: layers are read by the daemon itself");
    }
    match Worker::this_program().probe() {
        Ok(protection) => {
            let advice = "ask as root; the kernel needs Landlock, which Linux has had since 5.13";
            Row::found(NAME, protection.is_complete(), protection.to_string(), advice)
        }
        Err(error) => {
            let advice = "the daemon does not start; with sandbox = false it reads layers itself";
            Row::found(NAME, false, causes(&error), advice).required()
        }
    }
}

fn daemon(config: &Config) -> Row {
    let address = &config.address;
    let answer = ask(address, async |channel| {
        let mut client = HealthClient::new(channel);
        let answer = client.check(HealthCheckRequest::default()).await;
        Ok(answer.map_err(|status| status.message().to_owned())?.into_inner().status())
    });
    let (ok, evidence) = match answer {
        Ok(ServingStatus::Serving) => (true, format!("serves {}", address.display())),
        Ok(status) => (false, format!("{}: {}", address.display(), status.as_str_name())),
        Err(error) => (false, format!("{}: {error}", address.display())),
    };
    Row::found("daemon", ok, evidence, "start it: systemctl start erolith").required()
}

fn containerd_rows(config: &Config, path: &Path) -> Vec<Row> {
    let address = &config.containerd.address;
    let answer = ask(address, async |channel| {
        let mut client = IntrospectionClient::new(channel.clone());
        let plugins = client.plugins(PluginsRequest::default()).await;
        let plugins = plugins.map_err(|status| status.message().to_owned())?.into_inner().plugins;
        let version = VersionClient::new(channel).version(()).await;
        let version = version.map_err(|status| status.message().to_owned())?.into_inner().version;
        Ok(Answer { version, plugins })
    });
    let advice = "start containerd, or name its socket: [containerd] address";
    let (ok, evidence) = match &answer {
        Ok(Answer { version, plugins }) => (true, format!("{version}, {} plugins", plugins.len())),
        Err(error) => (false, error.clone()),
    };
    let evidence = format!("{}: {evidence}", address.display());
    let there = Row::found("containerd", ok, evidence, advice).required();
    let files = Files::read(path);
    let answer = answer.as_ref().ok();
    let facts = Facts { path, files: &files, answer, address: &config.address };
    std::iter::once(there).chain(facts.rows()).collect()
}

/// Makes a request at a socket, with a timeout.
fn ask<T>(
    address: &Path,
    question: impl AsyncFnOnce(Channel) -> Result<T, String>,
) -> Result<T, String> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let asked = async {
            let uri = format!("unix://{}", address.display());
            let endpoint = Endpoint::from_shared(uri).map_err(|_| "no address".to_owned())?;
            let channel = endpoint.connect().await.map_err(|_| "nobody answers".to_owned())?;
            question(channel).await
        };
        let silence = |_| Err(format!("no answer in {PATIENCE:?}"));
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(silence)
    })
}

#[cfg(test)]
mod tests {
    use erolith_snapshotter::kernel::{Finding, ProbeDir, State};

    use super::*;

    #[test]
    fn places_that_are_not_there_are_judged_by_those_above() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(existing(&dir.path().join("a/b/c")), dir.path());
        assert_eq!(existing(dir.path()), dir.path());
        let at = |name: &str| dir.path().join(name);
        let mut config =
            Config { root: at("root"), state: "/proc/none".into(), ..Config::default() };
        config.containerd.root = at("containerd");
        assert_eq!(hard_links(&config).state, "ok");
        config.containerd.root = "/proc/none".into();
        assert_eq!(hard_links(&config).state, "missing");
        config.containerd.root = "".into();
        assert_eq!(hard_links(&config).state, "untried");
        assert_eq!(state(&config).state, "missing");
        assert_eq!(layers(&config).state, "ok");
        config.state = "/run/a-name-that-takes-more-of-the-options-than-it-should".into();
        assert_eq!(layers(&config).state, "missing");
    }

    #[test]
    fn limits_need_one_of_two_ways() {
        let place = ProbeDir { release: "6.1".into(), dir: "/x".into(), fs_type: "xfs".into() };
        let found = Finding { state: State::Present, evidence: String::new() };
        let caps = |features: &[Feature]| {
            let found = features.iter().map(|&feature| (feature, found.clone()));
            KernelCaps::from_parts(place.clone(), found)
        };
        use Feature::{ProjectQuota, SizedImage};
        use LimitBy::{Auto, Image, Quota};
        let table: [(LimitBy, &[Feature], &str, &str); 6] = [
            (Auto, &[ProjectQuota, SizedImage], "ok", "by project quota"),
            (Auto, &[SizedImage], "ok", "by images"),
            (Auto, &[], "missing", "no way works"),
            (Image, &[ProjectQuota, SizedImage], "ok", "by images"),
            (Image, &[ProjectQuota], "missing", "no way works"),
            (Quota, &[SizedImage], "missing", "no way works"),
        ];
        for (limit_by, features, state, evidence) in table {
            let mut config = Config::default();
            config.snapshotter.limit_by = limit_by.into();
            let row = limits(&config, &caps(features));
            assert_eq!((row.state, row.evidence.as_str()), (state, evidence), "{limit_by:?}");
        }
    }

    #[test]
    fn who_does_not_answer_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config { address: dir.path().join("none"), ..Config::default() };
        config.containerd.address = dir.path().join("nobody");
        let row = daemon(&config);
        assert!(row.state == "missing" && row.evidence.ends_with("none: nobody answers"));
        let rows = containerd_rows(&config, &dir.path().join("none.toml"));
        let states: Vec<_> = rows.iter().take(4).map(|row| row.state).collect();
        assert_eq!(states, ["missing", "missing", "untried", "untried"]);
    }
}
