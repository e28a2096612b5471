//! The laboratory: network namespaces as nodes, links between them, real daemons in them, and guards that notice
//! what is left behind. Begin with [`Lab`].

pub mod bench;
pub mod capture;
pub mod containerd;
pub mod cri;
pub mod delay;
pub mod demo;
pub mod director;
pub mod images;
pub mod lab;
pub mod leak;
pub mod link;
pub mod machine;
pub mod node;
pub mod place;
pub mod poll;
pub mod process;
pub mod speakers;
mod tun;
pub mod turnpike_node;
pub mod wall_clock;

pub use capture::Capture;
pub use containerd::{ContainerSpec, Containerd, Pod, PodSpec, RuntimeConfig};
pub use delay::DelayLine;
pub use director::Director;
pub use images::Image;
pub use lab::Lab;
pub use link::Link;
pub use machine::Machine;
pub use node::Node;
pub use place::binary;
pub use poll::{poll, poll_result};
pub use process::Process;
pub use turnpike_node::{TurnpikeConfig, TurnpikeNode};
pub use wall_clock::WallClock;
