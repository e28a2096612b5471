//! Route leaks, prevented and detected by the OTC attribute (RFC 9234 §5).

use turnpike_bgp_wire::{Asn, Attributes, Role};

/// The paths of a neighbour at whose session we have this role: `false` if one is a leak.
pub(super) fn may_come_in(attributes: &Attributes, ours: Option<Role>, remote_as: Asn) -> bool {
    match (ours.map(Role::counterpart), attributes.otc) {
        (Some(Role::Customer | Role::RsClient), Some(_)) => false,
        (Some(Role::Peer), Some(otc)) => otc == remote_as,
        _ => true,
    }
}

/// The OTC attribute that a path without one gets on its way in.
pub(super) fn mark_coming_in(attributes: &Attributes, ours: Option<Role>, remote_as: Asn) -> Option<Asn> {
    let down = matches!(ours.map(Role::counterpart), Some(Role::Provider | Role::Peer | Role::Rs));
    (down && attributes.otc.is_none()).then_some(remote_as)
}

/// A path may go out to a neighbour at whose session we have this role.
pub(super) fn may_go_out(attributes: &Attributes, ours: Option<Role>) -> bool {
    let up = matches!(ours.map(Role::counterpart), Some(Role::Provider | Role::Peer | Role::Rs));
    !(up && attributes.otc.is_some())
}

/// Marks a path on its way out.
pub(super) fn mark_going_out(attributes: &mut Attributes, ours: Option<Role>, local_as: Asn) {
    if matches!(ours.map(Role::counterpart), Some(Role::Customer | Role::Peer | Role::RsClient)) {
        attributes.otc.get_or_insert(local_as);
    }
}
