//! A peer as the RIBs see it.

use std::net::IpAddr;

use turnpike_bgp_wire::{Asn, EncodeContext, Families, Family, PerFamily, Role, RouterId};

use crate::config::{ExportNextHop, LocalAs, MaxPrefix, PeerConfig, PolicyChoice, SendPaths};
use crate::query::PeerId;

/// AS 0 belongs to nobody (RFC 7607): what stands here until an OPEN has come.
const NOBODY: Asn = Asn(0);

/// How paths from a peer are judged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ImportRules {
    pub(super) policy: PolicyChoice,
    pub(super) allow_own_as: u8,
    /// Also how paths go out.
    pub(super) local_as: Option<LocalAs>,
    /// Likewise; external peers alone have one.
    pub(super) role: Option<Role>,
}

/// What an Established session means for the RIBs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SessionFacts {
    /// The peer's, as its OPEN says.
    pub(crate) asn: Asn,
    pub(crate) router_id: RouterId,
    pub(crate) local: IpAddr,
    pub(crate) families: Families,
    pub(crate) encode: EncodeContext,
    pub(crate) extended_next_hop: bool,
    pub(crate) enhanced_refresh: bool,
    /// Families in which both sides do long-lived graceful restart.
    pub(crate) long_lived: Families,
}

/// A peer as the RIBs see it. Outlives its sessions, as its paths may.
#[derive(Clone, Debug)]
pub(crate) struct RibPeer {
    pub(crate) id: PeerId,
    pub(super) addr: IpAddr,
    pub(super) scope: u32,
    /// Configured, or of the present or last session where the configuration leaves it open.
    pub(super) remote_as: Asn,
    pub(crate) internal: bool,
    /// Our AS, where the peer's OPEN decides whether it is internal.
    auto: Option<Asn>,
    pub(super) client: bool,
    pub(super) import: ImportRules,
    pub(super) export: PolicyChoice,
    pub(super) next_hop: ExportNextHop,
    pub(super) send_paths: PerFamily<SendPaths>,
    pub(super) max_prefix: Option<MaxPrefix>,
    /// Long-lived stale paths are told it even if it does not know what they are.
    pub(super) long_lived_fallback: bool,
    /// Of the present or last session.
    pub(super) router_id: RouterId,
    pub(super) session: Option<SessionFacts>,
    /// Paths with another number than this are left over from before.
    pub(super) generation: PerFamily<u16>,
    /// That number when the present or last session began.
    began: PerFamily<u16>,
    /// Paths from before the session are kept as a last resort (RFC 9494).
    long_lived: Families,
    pub(crate) received: PerFamily<usize>,
    pub(crate) accepted: PerFamily<usize>,
    pub(super) over_limit: PerFamily<bool>,
    pub(super) discarded: PerFamily<bool>,
    /// More paths of one prefix than are taken have come in this session.
    pub(super) crowded: bool,
    /// UPDATE bytes handed to the shell that have not left yet.
    pub(super) unsent: usize,
}

impl RibPeer {
    /// `own` is the speaker's AS. As long as nobody knows, a peer counts as external: nothing comes in or goes out
    /// without a policy.
    pub(crate) fn new(id: PeerId, config: &PeerConfig, own: Asn) -> Self {
        let known = config.remote_as.is_internal(own);
        let internal = known == Some(true);
        Self {
            id,
            addr: config.remote,
            scope: config.transport.scope,
            remote_as: config.remote_as.number().unwrap_or(NOBODY),
            internal,
            auto: known.is_none().then_some(own),
            client: config.rr_client && internal,
            import: ImportRules {
                policy: config.import.clone(),
                allow_own_as: config.allow_own_as,
                local_as: config.local_as.filter(|_| !internal),
                role: config.role.filter(|_| !internal),
            },
            export: config.export.clone(),
            next_hop: config.next_hop,
            send_paths: PerFamily::from_fn(|family| config.add_path.get(family).send),
            max_prefix: config.max_prefix,
            long_lived_fallback: config.long_lived_fallback && internal,
            router_id: RouterId::from_u32(0),
            session: None,
            generation: PerFamily::default(),
            began: PerFamily::default(),
            long_lived: Families::NONE,
            received: PerFamily::default(),
            accepted: PerFamily::default(),
            over_limit: PerFamily::default(),
            discarded: PerFamily::default(),
            crowded: false,
            unsent: 0,
        }
    }

    /// The same peer as `new` has it, with what sessions have led to.
    pub(super) fn under(&self, new: RibPeer, families: Families) -> RibPeer {
        let mut session = self.session.clone();
        if let Some(session) = &mut session {
            session.families = session.families.and(families);
        }
        let remote_as = learnt(new.remote_as, self.remote_as);
        RibPeer {
            remote_as,
            internal: new.is_internal(remote_as),
            router_id: self.router_id,
            session,
            generation: self.generation,
            began: self.began,
            long_lived: self.long_lived,
            ..new
        }
    }

    /// Takes over what configuration decides and keeps what sessions have led to.
    pub(super) fn take_config_of(&mut self, other: RibPeer) {
        self.scope = other.scope;
        self.remote_as = learnt(other.remote_as, self.remote_as);
        self.internal = other.is_internal(self.remote_as);
        self.auto = other.auto;
        self.client = other.client;
        self.import = other.import;
        self.export = other.export;
        self.next_hop = other.next_hop;
        self.send_paths = other.send_paths;
        self.long_lived_fallback = other.long_lived_fallback;
        if self.max_prefix != other.max_prefix {
            self.max_prefix = other.max_prefix;
            self.over_limit = PerFamily::default();
        }
    }

    /// Whether the peer is internal with this AS number.
    pub(super) fn is_internal(&self, asn: Asn) -> bool {
        self.auto.map_or(self.internal, |own| own == asn)
    }

    pub(super) fn begin(&mut self, session: SessionFacts) {
        self.remote_as = session.asn;
        self.internal = self.is_internal(session.asn);
        self.router_id = session.router_id;
        for family in Family::ALL {
            self.next_generation(family);
            *self.began.get_mut(family) = *self.generation.get(family);
        }
        self.over_limit = PerFamily::default();
        self.discarded = PerFamily::default();
        self.crowded = false;
        self.unsent = 0;
        self.session = Some(session);
    }

    /// Whether what is left over in a family is kept as a last resort.
    pub(super) fn set_long_lived(&mut self, family: Family, yes: bool) {
        *self.long_lived.get_mut(family) = yes;
    }

    /// A path with that number is one of those.
    pub(super) fn keeps_for_long(&self, family: Family, generation: u16) -> bool {
        // The numbers wrap.
        let before = |began: u16| (generation.wrapping_sub(began) as i16) < 0;
        self.long_lived.contains(family) && (self.session.is_none() || before(*self.began.get(family)))
    }

    pub(super) fn next_generation(&mut self, family: Family) {
        let generation = self.generation.get_mut(family);
        *generation = generation.wrapping_add(1);
    }
}

/// What a configuration says of the AS; where it says nothing, what is known.
fn learnt(configured: Asn, known: Asn) -> Asn {
    if configured == NOBODY { known } else { configured }
}
