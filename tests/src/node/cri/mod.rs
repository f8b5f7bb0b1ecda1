//! Kubernetes' side of a node: pods, containers and images as a kubelet asks for them, over containerd's CRI.

mod config;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use self::api::image_service_client::ImageServiceClient;
use self::api::runtime_service_client::RuntimeServiceClient;
pub use self::config::OTHER;
use self::config::{PAUSE, map, namespaces, network, plugins, settings};
use super::{Containerd, Leftovers, Node, daemon, spawn};
use crate::layout::Layout;
use crate::tools::{cache, cached};

/// The messages, of `cri/cri.proto`.
#[allow(missing_docs, missing_debug_implementations, clippy::too_many_lines)]
pub mod api {
    tonic::include_proto!("runtime.v1");
}

/// Where the node's registry listens, in the node's network.
pub const REGISTRY: &str = "127.0.0.1:5000";
/// What the Debian roots have for a node: programs, and plugins for the network of pods.
const PROGRAMS: [&str; 4] =
    ["usr/bin/busybox", "usr/bin/docker-registry", "usr/lib/cni/loopback", "usr/lib/cni/ptp"];
/// How long anything may take to answer or to vanish.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answer of a call.
pub type Answer<T> = Result<T, Status>;

/// Who pulls images for containerd's CRI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pull {
    /// Its transfer service, from 2.1 on.
    Transfer,
    /// Its client.
    Local,
}

/// How a pod is set apart from its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// On the node's network, with the node's users.
    Node,
    /// With a network of its own, and 65536 users of its own that begin at this one of the node.
    Users(u32),
}

/// A pod that was made.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its sandbox.
    pub id: String,
    config: api::PodSandboxConfig,
}

/// A node with pods, stopped when dropped.
#[derive(Debug)]
pub struct Cri {
    runtime: Runtime,
    registry: Option<Child>,
    /// What it runs on.
    pub node: Node,
    // Last: they are empty when the node is gone.
    _groups: Groups,
}

/// The control groups of a node's pods, which outlive its processes. Removed when dropped.
#[derive(Debug)]
struct Groups(String);

impl Cri {
    /// Starts a node whose containerd is configured as `erolith serve` prints it, with CRI, a registry and the image of
    /// pods. `dropin` may change what is printed.
    ///
    /// # Errors
    /// What is missing, for [`crate::need!`].
    ///
    /// # Panics
    /// When everything is there and does not start.
    pub fn start(
        program: &str,
        containerd: Containerd,
        pull: Pull,
        dropin: impl FnOnce(String) -> String,
    ) -> Result<Self, String> {
        for program in PROGRAMS {
            cached(&format!("sid/{program}"), "testdata/sid-root.sh")?;
        }
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        let settings = |place: &Path| settings(place, containerd, pull);
        let node = Node::start_printed(program, containerd, dropin, Some(&settings))?;
        let groups = Groups(cgroup(&node));
        let mut cri = Self { runtime, registry: None, node, _groups: groups };
        // containerd copies it into pods, and not every Debian root has one.
        cri.node.exec(&["sh", "-c", "[ -e /etc/hosts ] || echo 127.0.0.1 localhost >/etc/hosts"]);
        write(&cri.node.place().join("cni/10-ptp.conflist"), &network().to_string());
        cri.start_registry();
        cri.ready();
        let pause = cri.node.place().join("pause");
        let layers = [crate::busybox::layer()];
        let layout = Layout::create_running(&pause, &layers, &["/bin/sleep", "1000000"]);
        cri.publish(&layout.unwrap_or_else(|e| panic!("{e}")), PAUSE);
        cri.pull(PAUSE).unwrap_or_else(|e| panic!("pulling {PAUSE}: {e}"));
        Ok(cri)
    }

    /// Brings the loopback interface up, as the network of pods does it, and starts the registry there.
    fn start_registry(&mut self) {
        let place = self.node.place();
        let config = place.join("registry.yml");
        // JSON is YAML.
        let settings = json!({
            "version": "0.1",
            "storage": { "filesystem": { "rootdirectory": place.join("registry") } },
            "http": { "addr": REGISTRY },
        });
        write(&config, &settings.to_string());
        // The plugin refuses to work on the network it runs in.
        let up = format!(
            "echo '{{\"cniVersion\":\"1.0.0\",\"name\":\"lo\",\"type\":\"loopback\"}}' | CNI_COMMAND=ADD \
             CNI_CONTAINERID=node CNI_NETNS=/proc/$$/ns/net CNI_IFNAME=lo CNI_PATH={0} unshare --net {0}/loopback",
            plugins().display()
        );
        self.node.exec(&["sh", "-c", &up]);
        let program = cache().join("sid/usr/bin/docker-registry").display().to_string();
        let words = [program.as_str(), "serve", &config.display().to_string()];
        self.registry = Some(spawn(&self.node, &words, &place.join("registry.log")));
        let connect = format!(": <>/dev/tcp/{}", REGISTRY.replace(':', "/"));
        self.wait("the registry", || self.node.try_exec(&["bash", "-c", &connect]).map(|_| ()));
    }

    /// Puts a layout's image into the registry, under a name that begins with [`REGISTRY`].
    ///
    /// # Panics
    /// When that fails.
    pub fn publish(&self, layout: &Layout, name: &str) {
        self.node.import(&layout.0);
        self.node.ctr(&["images", "tag", "image:latest", name]);
        self.node.ctr(&["images", "push", "--plain-http", name]);
        self.node.ctr(&["images", "rm", "--sync", "image:latest", name]);
    }

    /// Waits until CRI answers, which takes longer than containerd's other services.
    ///
    /// # Panics
    /// When it does not.
    pub fn ready(&self) {
        self.wait("CRI", || self.sandboxes().map(|_| ()).map_err(|e| e.to_string()));
    }

    fn wait(&self, what: &str, ready: impl Fn() -> Result<(), String>) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = ready() {
            assert!(Instant::now() < deadline, "{what} does not answer: {why}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until containerd speaks to the daemon again, which it tries every few seconds.
    ///
    /// # Panics
    /// When it does not.
    pub fn reconnected(&self) {
        // In a namespace without snapshots it would not ask.
        let words = ["--namespace", "k8s.io", "snapshots", "--snapshotter", "erolith", "ls"];
        self.wait("the daemon", || self.node.try_ctr(&words).map(|_| ()));
    }

    /// Everything of the node ends, and begins anew: the daemon, containerd, the registry.
    ///
    /// # Panics
    /// When something does not come back.
    pub fn reboot(&mut self) {
        self.node.reboot();
        end(self.registry.take());
        self.start_registry();
        self.ready();
    }

    fn ask<T>(
        &self,
        question: impl AsyncFnOnce(Channel) -> Result<Response<T>, Status>,
    ) -> Answer<T> {
        let address = format!("unix://{}", self.node.place().join("sock").display());
        self.runtime.block_on(async {
            let endpoint = Endpoint::from_shared(address);
            let endpoint = endpoint.map_err(|e| Status::internal(e.to_string()))?;
            let channel = endpoint.connect().await;
            let channel = channel.map_err(|e| Status::unavailable(e.to_string()))?;
            question(channel).await.map(Response::into_inner)
        })
    }

    /// Pulls an image.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn pull(&self, image: &str) -> Answer<String> {
        let request = api::PullImageRequest { image: spec(image), sandbox_config: None };
        self.pull_with(request)
    }

    /// Pulls an image for the pods of a runtime class.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn pull_for(&self, image: &str, handler: &str) -> Answer<String> {
        let annotations =
            BTreeMap::from([("io.containerd.cri.runtime-handler".to_owned(), handler.to_owned())]);
        let image =
            spec(image).map(|spec| api::ImageSpec { annotations: annotations.clone(), ..spec });
        let pod = api::PodSandboxConfig { annotations, ..Default::default() };
        self.pull_with(api::PullImageRequest { image, sandbox_config: Some(pod) })
    }

    fn pull_with(&self, request: api::PullImageRequest) -> Answer<String> {
        let answer =
            self.ask(async |channel| ImageServiceClient::new(channel).pull_image(request).await);
        answer.map(|answer| answer.image_ref)
    }

    /// What is known of an image; nothing when it is not there.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn image(&self, image: &str) -> Answer<Option<api::Image>> {
        let request = api::ImageRequest { image: spec(image) };
        let answer =
            self.ask(async |channel| ImageServiceClient::new(channel).image_status(request).await);
        answer.map(|answer| answer.image)
    }

    /// The names of all images, sorted.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn images(&self) -> Answer<Vec<String>> {
        let answer = self
            .ask(async |channel| ImageServiceClient::new(channel).list_images(api::Empty {}).await);
        let mut names: Vec<_> =
            answer?.images.into_iter().flat_map(|image| image.repo_tags).collect();
        names.sort();
        Ok(names)
    }

    /// Removes an image.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn remove_image(&self, image: &str) -> Answer<()> {
        let request = api::ImageRequest { image: spec(image) };
        let answer =
            self.ask(async |channel| ImageServiceClient::new(channel).remove_image(request).await);
        answer.map(|_| ())
    }

    /// What images take, and where.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn image_filesystem(&self) -> Answer<api::FilesystemUsage> {
        let answer = self.ask(async |channel| {
            ImageServiceClient::new(channel).image_fs_info(api::Empty {}).await
        });
        let usage = answer?.image_filesystems.into_iter().next();
        usage.ok_or_else(|| Status::not_found("no filesystem of images"))
    }

    /// Makes a pod, for the runtime class `handler` or the usual one.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn pod(&self, name: &str, space: Space, handler: &str) -> Answer<Pod> {
        let metadata = api::PodSandboxMetadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            attempt: 0,
        };
        let context =
            api::LinuxSandboxSecurityContext { namespace_options: Some(namespaces(space)) };
        let config = api::PodSandboxConfig {
            metadata: Some(metadata),
            hostname: if space == Space::Node { String::new() } else { name.into() },
            log_directory: self.logs().display().to_string(),
            linux: Some(api::LinuxPodSandboxConfig {
                cgroup_parent: format!("/{}", cgroup(&self.node)),
                security_context: Some(context),
            }),
            ..Default::default()
        };
        let request = api::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: handler.into(),
        };
        let answer = self
            .ask(async |channel| RuntimeServiceClient::new(channel).run_pod_sandbox(request).await);
        Ok(Pod { id: answer?.pod_sandbox_id, config })
    }

    /// Where containers' output goes.
    fn logs(&self) -> PathBuf {
        self.node.place().join("pods")
    }

    /// What containers of a pod wrote to their output, each line with its head.
    pub fn log(&self, container: &str) -> String {
        fs::read_to_string(self.logs().join(container)).unwrap_or_default()
    }

    /// All pods, and whether they run.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn sandboxes(&self) -> Answer<Vec<(String, bool)>> {
        let answer = self.ask(async |channel| {
            RuntimeServiceClient::new(channel).list_pod_sandbox(api::Empty {}).await
        });
        let ready = |pod: api::PodSandbox| {
            let ready = pod.state() == api::PodSandboxState::SandboxReady;
            (pod.id, ready)
        };
        Ok(answer?.items.into_iter().map(ready).collect())
    }

    /// Makes a container of a pod that runs `shell`, with mounts.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn create(
        &self,
        pod: &Pod,
        name: &str,
        image: &str,
        shell: &str,
        mounts: Vec<api::Mount>,
    ) -> Answer<String> {
        let linux = pod.config.linux.clone().and_then(|linux| linux.security_context);
        let context = api::LinuxContainerSecurityContext {
            namespace_options: linux.and_then(|context| context.namespace_options),
        };
        let config = api::ContainerConfig {
            metadata: Some(api::ContainerMetadata { name: name.into(), attempt: 0 }),
            image: spec(image),
            command: ["/bin/sh", "-c", shell].map(str::to_owned).to_vec(),
            mounts,
            log_path: name.into(),
            linux: Some(api::LinuxContainerConfig { security_context: Some(context) }),
        };
        let request = api::CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let answer = self.ask(async |channel| {
            RuntimeServiceClient::new(channel).create_container(request).await
        });
        answer.map(|answer| answer.container_id)
    }

    /// Starts a container.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn start_container(&self, container: &str) -> Answer<()> {
        let request = of_container(container);
        let answer = self
            .ask(async |channel| RuntimeServiceClient::new(channel).start_container(request).await);
        answer.map(|_| ())
    }

    /// Makes a container that waits, and starts it.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn run(
        &self,
        pod: &Pod,
        name: &str,
        image: &str,
        mounts: Vec<api::Mount>,
    ) -> Answer<String> {
        let container = self.create(pod, name, image, "exec sleep 1000000", mounts)?;
        self.start_container(&container).map(|()| container)
    }

    /// Runs `shell` in a container: its exit code and what it said.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn try_exec(&self, container: &str, shell: &str) -> Answer<(i32, String)> {
        let request = api::ExecSyncRequest {
            container_id: container.into(),
            cmd: ["/bin/sh", "-c", shell].map(str::to_owned).to_vec(),
            timeout: 20,
        };
        let answer =
            self.ask(async |channel| RuntimeServiceClient::new(channel).exec_sync(request).await)?;
        let said = [answer.stdout, answer.stderr].concat();
        Ok((answer.exit_code, String::from_utf8_lossy(&said).into_owned()))
    }

    /// What `shell` says in a container; it must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn exec(&self, container: &str, shell: &str) -> String {
        match self.try_exec(container, shell) {
            Ok((0, said)) => said,
            other => panic!("{shell}: {other:?}"),
        }
    }

    /// Waits until a container has ended: its exit code.
    ///
    /// # Panics
    /// When it goes on.
    pub fn ended(&self, container: &str) -> i32 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = of_container(container);
            let answer = self.ask(async |channel| {
                RuntimeServiceClient::new(channel).container_status(request).await
            });
            let status = answer.map(|answer| answer.status.unwrap_or_default());
            let status = status.unwrap_or_else(|e| panic!("status of {container}: {e}"));
            if status.state() == api::ContainerState::ContainerExited {
                return status.exit_code;
            }
            assert!(Instant::now() < deadline, "{container} goes on: {status:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends a container: SIGTERM, and SIGKILL after a second.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn stop_container(&self, container: &str) -> Answer<()> {
        let request = api::StopContainerRequest { container_id: container.into(), timeout: 1 };
        let answer = self
            .ask(async |channel| RuntimeServiceClient::new(channel).stop_container(request).await);
        answer.map(|_| ())
    }

    /// Removes a container.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn remove_container(&self, container: &str) -> Answer<()> {
        let request = of_container(container);
        let answer = self.ask(async |channel| {
            RuntimeServiceClient::new(channel).remove_container(request).await
        });
        answer.map(|_| ())
    }

    /// What a container wrote to its own layer; nothing before containerd has looked, which it does every second here.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn written(&self, container: &str) -> Answer<Option<(u64, u64)>> {
        let request = of_container(container);
        let answer = self
            .ask(async |channel| RuntimeServiceClient::new(channel).container_stats(request).await);
        let layer = answer?.stats.and_then(|stats| stats.writable_layer);
        Ok(layer.and_then(|usage| Some((usage.used_bytes?.value, usage.inodes_used?.value))))
    }

    /// Stops and removes a pod with its containers.
    ///
    /// # Errors
    /// What containerd answers.
    pub fn remove_pod(&self, id: &str) -> Answer<()> {
        let request = api::PodSandboxRequest { pod_sandbox_id: id.into() };
        let again = request.clone();
        self.ask(async |channel| {
            RuntimeServiceClient::new(channel).stop_pod_sandbox(request).await
        })?;
        let answer = self.ask(async |channel| {
            RuntimeServiceClient::new(channel).remove_pod_sandbox(again).await
        });
        answer.map(|_| ())
    }

    /// An image as a volume of a container, read-only.
    pub fn image_volume(image: &str, at: &str, space: Space) -> api::Mount {
        let maps = match space {
            Space::Node => Vec::new(),
            Space::Users(first) => vec![map(first)],
        };
        api::Mount {
            container_path: at.into(),
            readonly: true,
            uid_mappings: maps.clone(),
            gid_mappings: maps,
            image: spec(image),
            ..Default::default()
        }
    }

    /// Removes every pod and every image, and waits until nothing of the daemon's is left.
    ///
    /// # Panics
    /// With what stays.
    pub fn leaves_nothing(&self) {
        for (id, _) in self.sandboxes().unwrap_or_else(|e| panic!("{e}")) {
            self.remove_pod(&id).unwrap_or_else(|e| panic!("removing pod {id}: {e}"));
        }
        let images = self.images().unwrap_or_else(|e| panic!("{e}"));
        for image in images {
            self.remove_image(&image).unwrap_or_else(|e| panic!("removing {image}: {e}"));
        }
        let listed = || {
            let words = ["--namespace", "k8s.io", "snapshots", "--snapshotter", "erolith", "ls"];
            self.node.ctr(&words)
        };
        let deadline = Instant::now() + PATIENCE;
        while listed().lines().count() > 1 {
            assert!(Instant::now() < deadline, "snapshots that containerd keeps:\n{}", listed());
            // Deleting a lease so makes the collector run now.
            self.node.ctr(&["leases", "create", "--id", "collect"]);
            self.node.ctr(&["leases", "delete", "--sync", "collect"]);
        }
        let setup = &self.node.setup;
        let left = Leftovers::vanish(self.node.world, &setup.root, &setup.state);
        left.unwrap_or_else(|e| panic!("{e}"));
    }
}

impl Drop for Cri {
    fn drop(&mut self) {
        let log = || fs::read_to_string(self.node.place().join("registry.log")).unwrap_or_default();
        daemon::relay_in_panic("the registry", log);
        // It goes with the namespaces; this is the way in.
        end(self.registry.take());
    }
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The control group that all pods of a node are below.
fn cgroup(node: &Node) -> String {
    let name = node.dir.path().file_name().unwrap_or_default();
    format!("erolith-{}", name.display())
}

impl Drop for Groups {
    fn drop(&mut self) {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path());
        for hierarchy in hierarchies.chain([root.to_owned()]) {
            let below = hierarchy.join(&self.0);
            let groups = fs::read_dir(&below).into_iter().flatten().flatten();
            for group in groups.map(|entry| entry.path()).filter(|path| path.is_dir()) {
                let _ = fs::remove_dir(group);
            }
            let _ = fs::remove_dir(below);
        }
    }
}

fn spec(image: &str) -> Option<api::ImageSpec> {
    Some(api::ImageSpec { image: image.into(), ..Default::default() })
}

fn of_container(container: &str) -> api::ContainerRequest {
    api::ContainerRequest { container_id: container.into() }
}

fn write(path: &Path, text: &str) {
    let made = fs::create_dir_all(path.parent().unwrap_or(path));
    let written =
        made.and_then(|()| File::create(path)).and_then(|mut file| file.write_all(text.as_bytes()));
    written.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
