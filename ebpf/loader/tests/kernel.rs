//! Every program on a real kernel: verifier, packets in and out, pins, TOA end to end. Needs root.

#[cfg(test)]
#[path = "kernel/bypass.rs"]
mod bypass;
#[cfg(test)]
#[path = "kernel/exempt.rs"]
mod exempt;
#[cfg(test)]
#[path = "kernel/frames.rs"]
mod frames;
#[cfg(test)]
#[path = "kernel/from_pod.rs"]
mod from_pod;
#[cfg(test)]
#[path = "kernel/marking.rs"]
mod marking;
#[cfg(test)]
#[path = "kernel/mutation.rs"]
mod mutation;
#[cfg(test)]
#[path = "kernel/mutation_model.rs"]
mod mutation_model;
#[cfg(test)]
#[path = "kernel/pins.rs"]
mod pins;
#[cfg(test)]
#[path = "kernel/sandbox.rs"]
mod sandbox;
#[cfg(test)]
#[path = "kernel/server.rs"]
mod server;
#[cfg(test)]
#[path = "kernel/shadow.rs"]
mod shadow;
#[cfg(test)]
#[path = "kernel/space.rs"]
mod space;
#[cfg(test)]
#[path = "kernel/testrun.rs"]
mod testrun;
#[cfg(test)]
#[path = "kernel/toa.rs"]
mod toa;
#[cfg(test)]
#[path = "kernel/towards_pod.rs"]
mod towards_pod;
#[cfg(test)]
#[path = "kernel/uoa.rs"]
mod uoa;
#[cfg(test)]
#[path = "kernel/verifier.rs"]
mod verifier;
#[cfg(test)]
#[path = "kernel/wire.rs"]
mod wire;
