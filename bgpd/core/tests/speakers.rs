//! Speakers in one process, joined by pipes in memory, on virtual time.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that goes wrong should stop at once"
)]

#[path = "speakers/world.rs"]
mod world;

#[path = "speakers/add_path.rs"]
mod add_path;
#[path = "speakers/aggregates.rs"]
mod aggregates;
#[path = "speakers/graceful.rs"]
mod graceful;
#[path = "speakers/long_lived.rs"]
mod long_lived;
#[path = "speakers/operations.rs"]
mod operations;
#[path = "speakers/paths.rs"]
mod paths;
#[path = "speakers/policies.rs"]
mod policies;
#[path = "speakers/random.rs"]
mod random;
#[path = "speakers/reflector.rs"]
mod reflector;
#[path = "speakers/robust.rs"]
mod robust;
#[path = "speakers/roles.rs"]
mod roles;
#[path = "speakers/routes.rs"]
mod routes;
#[path = "speakers/sessions.rs"]
mod sessions;
