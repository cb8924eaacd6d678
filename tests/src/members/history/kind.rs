//! What can happen in a history.

use super::History;
use super::hostile::Forgery;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident => $method:ident($($argument:expr),*);)*) => {
        /// What can happen.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind),*];
        }

        impl History {
            /// Lets something happen; whether it could.
            pub(super) fn happen(&mut self, kind: Kind) -> bool {
                self.detail.clear();
                match kind {
                    $(Kind::$kind => self.$method($($argument),*).is_some(),)*
                }
            }
        }
    };
}

kinds! {
    /// A machine joins under a new name.
    Join => join();
    /// A machine joins from an ephemeral pool.
    PoolJoin => pool_join();
    /// An ephemeral member ends without a word.
    EphemeralEnd => ephemeral_end();
    /// A member leaves.
    Leave => leave();
    /// An owner revokes a member.
    Revoke => revoke(false);
    /// An owner revokes a member, but not the rest of its token.
    RevokeMemberOnly => revoke(true);
    /// An owner revokes a token before it is used.
    RevokeToken => revoke_token();
    /// An owner renames a member.
    Rename => rename();
    /// An owner adds another.
    OwnerAdd => owner_add();
    /// Owners end another, or themselves.
    OwnerRemove => owner_remove(false);
    /// The same, because its key was stolen.
    OwnerVoid => owner_remove(true);
    /// An owner takes another key.
    OwnerRotate => owner_rotate();
    /// A member's process dies.
    Crash => crash();
    /// It starts again.
    Restart => restart();
    /// The network falls into parts.
    Split => split();
    /// The parts find together.
    Heal => heal();
    /// A machine is installed anew, with a token that replaces its old incarnation.
    Reimage => reimage();
    /// Another machine takes the place of one that still runs, by force.
    ReplaceRunning => replace_running();
    /// The disk of a member is copied, and the copy started.
    Clone => clone_machine();
    /// A copy is taken away.
    CloneEnd => clone_end();
    /// A clock starts again in 1970.
    ClockTo1970 => clock(Some(0));
    /// A clock is years behind.
    ClockBehind => clock(Some(1_500_000_000));
    /// A clock is decades ahead.
    ClockAhead => clock(Some(4_000_000_000));
    /// A clock is set.
    ClockSet => clock(None);
    /// A token for a name that a member has.
    DuplicateName => duplicate(true);
    /// A token for an address that a member has.
    DuplicateAddress => duplicate(false);
    /// Somebody uses a token a second time.
    ReplayToken => replay();
    /// Somebody uses a token whose time is over.
    ExpiredToken => expired();
    /// A machine joins with a token of a later version of the program.
    LaterToken => later_token();
    /// An owner revokes a token with a record of a later version.
    LaterTombstone => later_tombstone();
    /// A member moves to another place.
    Move => move_away();
    /// A hostile peer sends a member that it made up or damaged.
    ForgeMember => forge(Forgery::Member);
    /// The same with an announcement.
    ForgeAnnouncement => forge(Forgery::Announcement);
    /// The same with a tombstone.
    ForgeTombstone => forge(Forgery::Tombstone);
    /// The same with a change of owners.
    ForgeOwnerChange => forge(Forgery::OwnerChange);
    /// The same with a renaming.
    ForgeRename => forge(Forgery::Rename);
    /// A hostile peer sends anything at all.
    ForgeNoise => noise();
    /// A member signs what only owners may, or only another member.
    InsiderClaim => insider_claim();
    /// A member lets in somebody with a token that was used.
    InsiderAdmit => insider_admit();
    /// A hostile peer repeats old records.
    Repeat => repeat();
    /// An outsider sends hellos that it made up.
    Outside => outside();
    /// An outsider repeats a hello that it saw.
    OutsideRepeat => outside_repeat();
}
