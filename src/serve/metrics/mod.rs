//! What is measured. Names and labels are a promise to dashboards: see `dist/grafana.json`, and `docs/metrics.md`, which
//! tests compare with what there is.

pub(crate) mod http;

use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use erolith_snapshotter::service::DiskUse;
use erolith_snapshotter::store::Usage;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tonic::Code;

/// A call that was answered.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Rpc {
    service: &'static str,
    method: &'static str,
    code: &'static str,
}

/// How a layer came to be.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MethodLabel {
    how: &'static str,
}

/// A part of applying a layer.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

/// What became of an image that was to be kept in the content store.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Keep {
    result: &'static str,
}

/// What became of a damaged layer that was to be rebuilt.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Heal {
    result: &'static str,
}

/// What takes room on the disk.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Of {
    of: &'static str,
}

/// Snapshots of one kind.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// Numbers that are counted at each request, not followed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Active snapshots.
    pub(crate) active: i64,
    /// Views.
    pub(crate) view: i64,
    /// Committed snapshots.
    pub(crate) committed: i64,
    /// Mounts that the daemon made.
    pub(crate) mounts: i64,
    /// Layers that are damaged and not rebuilt.
    pub(crate) quarantined: i64,
}

/// Everything that is measured.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    rpc: Family<Rpc, Histogram, fn() -> Histogram>,
    apply: Family<MethodLabel, Histogram, fn() -> Histogram>,
    apply_stage: Family<Stage, Histogram, fn() -> Histogram>,
    apply_running: Gauge,
    apply_read: Counter,
    apply_written: Counter,
    diff: Histogram,
    diff_written: Counter,
    keep: Family<Keep, Histogram, fn() -> Histogram>,
    keep_waiting: Gauge,
    keep_written: Counter,
    snapshots: Family<Kind, Gauge>,
    mounts: Gauge,
    quarantined: Gauge,
    heals: Family<Heal, Counter>,
    disk: Family<Of, Gauge>,
    disk_inodes: Family<Of, Gauge>,
}

/// From 0.1 ms to 105 s.
fn latencies() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 4.0, 11))
}

/// From 1 ms to 35 minutes.
fn durations() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 4.0, 11))
}

impl Metrics {
    /// All at zero.
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("erolith"),
            rpc: Family::new_with_constructor(latencies),
            apply: Family::new_with_constructor(durations),
            apply_stage: Family::new_with_constructor(durations),
            apply_running: Gauge::default(),
            apply_read: Counter::<u64, AtomicU64>::default(),
            apply_written: Counter::default(),
            diff: durations(),
            diff_written: Counter::default(),
            keep: Family::new_with_constructor(durations),
            keep_waiting: Gauge::default(),
            keep_written: Counter::default(),
            snapshots: Family::default(),
            mounts: Gauge::default(),
            quarantined: Gauge::default(),
            heals: Family::default(),
            disk: Family::default(),
            disk_inodes: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The daemon", version);
        let (seconds, bytes) = (Unit::Seconds, Unit::Bytes);
        let help = "Time from request to answer";
        registry.register_with_unit("rpc", help, seconds.clone(), self.rpc.clone());
        let help = "Time from request to published layer, by how the layer came to be";
        registry.register_with_unit("apply", help, seconds.clone(), self.apply.clone());
        let help = "Time of the parts of applying a layer";
        let stages = self.apply_stage.clone();
        registry.register_with_unit("apply_stage", help, seconds.clone(), stages);
        let help = "Layers being applied, those that wait included";
        registry.register("apply_running", help, self.apply_running.clone());
        let help = "Blobs of layers that were applied";
        registry.register_with_unit("apply_read", help, bytes.clone(), self.apply_read.clone());
        let help = "Layers that blobs became, uncompressed";
        let written = self.apply_written.clone();
        registry.register_with_unit("apply_written", help, bytes.clone(), written);
        let help = "Time from request to committed blob of a layer that goes out";
        registry.register_with_unit("diff", help, seconds.clone(), self.diff.clone());
        let help = "Blobs of layers that went out";
        registry.register_with_unit("diff_written", help, bytes.clone(), self.diff_written.clone());
        let help = "Time to put a converted image into the content store, by what became of it";
        registry.register_with_unit("keep", help, seconds, self.keep.clone());
        let help = "Images that wait to be put into the content store, those on their way included";
        registry.register("keep_waiting", help, self.keep_waiting.clone());
        let help = "Images that were put into the content store";
        registry.register_with_unit("keep_written", help, bytes.clone(), self.keep_written.clone());
        registry.register("snapshots", "Snapshots by kind", self.snapshots.clone());
        registry.register("mounts", "Mounts of layers that the daemon made", self.mounts.clone());
        let help = "Layers that are damaged and not rebuilt";
        registry.register("quarantined_layers", help, self.quarantined.clone());
        let help = "Damaged layers that were to be rebuilt, by what became of it";
        registry.register("heals", help, self.heals.clone());
        let help = "Disk space of layers and of what containers wrote, counted once a minute";
        registry.register_with_unit("disk", help, bytes, self.disk.clone());
        let help = "Inodes of layers and of what containers wrote, counted once a minute";
        registry.register("disk_inodes", help, self.disk_inodes.clone());
    }

    /// Begins to time a call. One that is dropped unanswered counts as cancelled.
    pub(crate) fn call(&self, service: &'static str, method: &'static str) -> Call<'_> {
        Call { metrics: self, service, method, start: Instant::now(), code: Code::Cancelled }
    }

    /// An Apply begins; it is running as long as the result lives.
    pub(crate) fn apply_running(&self) -> Running {
        self.apply_running.inc();
        Running(self.apply_running.clone())
    }

    /// A part of applying a layer is done.
    pub(crate) fn apply_stage(&self, stage: &'static str, took: Duration) {
        self.apply_stage.get_or_create(&Stage { stage }).observe(took.as_secs_f64());
    }

    /// A layer was applied: from a blob of `read` bytes to `written` uncompressed ones.
    pub(crate) fn applied(&self, how: &'static str, took: Duration, read: u64, written: u64) {
        self.apply.get_or_create(&MethodLabel { how }).observe(took.as_secs_f64());
        self.apply_read.inc_by(read);
        self.apply_written.inc_by(written);
    }

    /// An image waits to be kept in the content store as long as the result lives.
    pub(crate) fn keep_waiting(&self) -> Running {
        self.keep_waiting.inc();
        Running(self.keep_waiting.clone())
    }

    /// An image was kept in the content store, with so many bytes, or not.
    pub(crate) fn kept(&self, result: &'static str, took: Duration, written: u64) {
        self.keep.get_or_create(&Keep { result }).observe(took.as_secs_f64());
        self.keep_written.inc_by(written);
    }

    /// A damaged layer was rebuilt, or not.
    pub(crate) fn healed(&self, result: &'static str) {
        self.heals.get_or_create(&Heal { result }).inc();
    }

    /// What is used of the disk was counted.
    pub(crate) fn disk_used(&self, used: DiskUse) {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        for (of, Usage { size, inodes }) in [("layers", used.layers), ("writable", used.writable)] {
            self.disk.get_or_create(&Of { of }).set(number(size));
            self.disk_inodes.get_or_create(&Of { of }).set(number(inodes));
        }
    }

    /// A layer went out, as a blob of `written` bytes.
    pub(crate) fn compared(&self, took: Duration, written: u64) {
        self.diff.observe(took.as_secs_f64());
        self.diff_written.inc_by(written);
    }

    /// Everything in the text format of OpenMetrics.
    pub(crate) fn text(&self, counted: Counted) -> String {
        let Counted { active, view, committed, mounts, quarantined } = counted;
        for (kind, count) in [("active", active), ("view", view), ("committed", committed)] {
            self.snapshots.get_or_create(&Kind { kind }).set(count);
        }
        self.mounts.set(mounts);
        self.quarantined.set(quarantined);
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Something that goes on.
#[derive(Debug)]
pub(crate) struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A call that is being answered.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    metrics: &'a Metrics,
    service: &'static str,
    method: &'static str,
    start: Instant,
    code: Code,
}

impl Call<'_> {
    /// The answer. Returns how long it took.
    pub(crate) fn answered(mut self, code: Code) -> Duration {
        self.code = code;
        self.start.elapsed()
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let &mut Self { metrics, service, method, start, code } = self;
        let rpc = Rpc { service, method, code: name(code) };
        metrics.rpc.get_or_create(&rpc).observe(start.elapsed().as_secs_f64());
    }
}

/// The name of a code, as gRPC's own metrics have it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
        Code::Unknown => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> String {
        let metrics = Metrics::new();
        metrics.call("Snapshots", "Prepare").answered(Code::Ok);
        drop(metrics.call("Snapshots", "Commit"));
        metrics.applied("converted", Duration::from_millis(30), 100, 300);
        metrics.compared(Duration::from_millis(30), 50);
        let running = metrics.apply_running();
        metrics.healed("healed");
        let used = |size, inodes| Usage { size, inodes };
        metrics.disk_used(DiskUse { layers: used(7, 8), writable: used(9, 10) });
        let counted = Counted { active: 2, view: 0, committed: 5, mounts: 3, quarantined: 1 };
        let text = metrics.text(counted);
        drop(running);
        text
    }

    #[test]
    fn calls_layers_and_counts_are_told() {
        let text = sample();
        for line in [
            r#"erolith_build_info{version="0.1.0"} 1"#,
            r#"erolith_rpc_seconds_count{service="Snapshots",method="Prepare",code="OK"} 1"#,
            r#"erolith_rpc_seconds_count{service="Snapshots",method="Commit",code="Canceled"} 1"#,
            r#"erolith_apply_seconds_count{how="converted"} 1"#,
            "erolith_apply_running 1",
            "erolith_apply_read_bytes_total 100",
            "erolith_apply_written_bytes_total 300",
            "erolith_diff_written_bytes_total 50",
            r#"erolith_snapshots{kind="committed"} 5"#,
            "erolith_mounts 3",
            "erolith_quarantined_layers 1",
            r#"erolith_heals_total{result="healed"} 1"#,
            r#"erolith_disk_bytes{of="layers"} 7"#,
            r#"erolith_disk_inodes{of="writable"} 10"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
