//! Metrics in the format of OpenMetrics. [`Recorder`] counts what happens in this process; what the
//! kernel and the store hold is read at each scrape into a [`Snapshot`]. [`encode`] makes the text of
//! both and has no effects. `docs/metrics.md` lists the names, which people alert on: none is renamed
//! or given another label without a line in the changelog.

mod devices;
mod encode;
mod recorder;
mod snapshot;
mod volumes;

pub use devices::{DeviceCounts, DeviceNumbers, DevicesSnapshot};
pub use encode::encode;
pub use recorder::{Passes, Recorder};
pub use snapshot::{MapFill, NetworkSnapshot, PodDrops, ServiceCounts, ServiceFlows, Snapshot};
pub use volumes::{VolumeCounts, VolumeUse, VolumesSnapshot};
