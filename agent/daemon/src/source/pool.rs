//! A pool's state set by an operator's command: in the resource file, as if by hand, and in force at once.

use std::fs;
use std::io;
use std::path::Path;

use turnpike_agent_api::{ErrorReply, code};
use turnpike_calc::{AddressPlan, Family};
use turnpike_model::pool::PoolState;
use turnpike_model::resource::Resources;

use crate::agent::Agent;
use crate::books::Books;
use crate::replace;

use super::{edit, list, read_folder, reload};

/// Sets `spec.state` of a pool in its file.
pub(crate) fn set_pool_state(
    agent: &Agent,
    pool: &str,
    state: &str,
    force: bool,
) -> Result<String, ErrorReply> {
    let wanted = parse(state)?;
    let folder = &agent.config.paths.resources;
    let resources = read_folder(folder).map_err(|errors| {
        let message = format!("{} holds mistakes; mend them first", folder.display());
        refused(message, errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    })?;
    let before = match resources.pools.get(pool) {
        Some(known) => known.state,
        None => {
            let names: Vec<&str> = resources.pools.keys().map(String::as_str).collect();
            return Err(refused(
                format!("there is no IPPool/{pool}"),
                format!("there are: {}", names.join(", ")),
            ));
        }
    };
    if before == wanted {
        return Ok(format!("pool {pool} is {wanted:?} already"));
    }
    if wanted != PoolState::Active && !force {
        keeps_addresses(&agent.books(), &resources, pool, wanted)?;
    }
    agent.audit("pool state", &format!("{pool} {before:?}"), &format!("{pool} {wanted:?}"))?;
    let file = rewrite(folder, pool, wanted)?;
    reload(agent);
    Ok(format!("pool {pool}: {before:?} → {wanted:?}, written to {file}"))
}

fn parse(state: &str) -> Result<PoolState, ErrorReply> {
    [PoolState::Active, PoolState::Draining, PoolState::Retired]
        .into_iter()
        .find(|known| format!("{known:?}") == state)
        .ok_or_else(|| {
            refused(format!("`{state}` is no state of a pool"), "Active, Draining or Retired".to_owned())
        })
}

fn refused(message: String, details: String) -> ErrorReply {
    ErrorReply::new(code::INVALID_CONFIG, message).with_details(details)
}

/// A family that pods have now must still have an Active pool with a block on this node afterwards.
fn keeps_addresses(
    books: &Books,
    resources: &Resources,
    pool: &str,
    state: PoolState,
) -> Result<(), ErrorReply> {
    let mut later = resources.clone();
    if let Some(spec) = later.pools.get_mut(pool) {
        spec.state = state;
    }
    let served = |resources: &Resources| -> Vec<Family> {
        let plan = AddressPlan::new(resources, books.node());
        plan.families.iter().filter(|family| !family.blocks.is_empty()).map(|family| family.family).collect()
    };
    let left = served(&later);
    match served(resources).into_iter().find(|family| !left.contains(family)) {
        None => Ok(()),
        Some(family) => Err(refused(
            format!("no Active {family} pool with a block on node {} would be left", books.node().name),
            format!(
                "new pods would get no {family} address: add the new pool and its blocks first, or use --force"
            ),
        )),
    }
}

/// Rewrites the file that holds the pool; answers its path.
fn rewrite(folder: &Path, pool: &str, state: PoolState) -> Result<String, ErrorReply> {
    let io = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| {
            ErrorReply::new(code::IO, format!("{path} cannot be rewritten: {error}"))
                .with_details(format!("set spec.state: {state:?} by hand"))
        }
    };
    for file in list(folder).map_err(io(folder))?.keys() {
        let text = fs::read_to_string(file).map_err(io(file))?;
        match edit::set_pool_state(file, &text, pool, state) {
            Ok(changed) => {
                replace::durably(file, changed.as_bytes()).map_err(io(file))?;
                return Ok(file.display().to_string());
            }
            Err(edit::EditError::Absent(_)) => {}
            Err(error) => return Err(refused(format!("{}: {error}", file.display()), String::new())),
        }
    }
    Err(refused(format!("no file holds IPPool/{pool} any more"), "look again".to_owned()))
}
