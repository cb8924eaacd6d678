//! The admission of a member, signed by the one that admitted it. With it, anybody can verify the member without
//! asking anybody.

use super::tlv::{Fields, Writer};
use super::{Envelope, IdentityKey, Kind, NetworkId, RecordError, RecordId};
use crate::crypto::{Crypto, Secret};

const MEMBER: u8 = 1;
const NONCE: u8 = 2;
const TIME: u8 = 3;
const REACH: u8 = 4;
const KNOWN: u8 = REACH;

/// An admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The record that was admitted.
    pub member: RecordId,
    /// What tells two admissions of one record apart.
    pub nonce: [u8; 16],
    /// Seconds since the Unix epoch, by the admitter's clock. For people to read: nothing is decided by it.
    pub time: u64,
    /// How many members the admitter could talk to. When a token turns out to be used twice, the admission that
    /// more members could have seen stands.
    pub reach: u16,
}

/// A receipt as it was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedReceipt {
    /// What it says.
    pub receipt: Receipt,
    /// Who admitted.
    pub admitter: IdentityKey,
    /// Its bytes.
    pub envelope: Envelope,
}

impl Receipt {
    /// Signs the receipt with the admitter's identity.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn seal(
        &self,
        network: &NetworkId,
        admitter: &Secret,
        crypto: &dyn Crypto,
    ) -> Result<SignedReceipt, RecordError> {
        let body = Writer::default()
            .field(MEMBER, &self.member.0)
            .field(NONCE, &self.nonce)
            .field(TIME, &self.time.to_le_bytes())
            .field(REACH, &self.reach.to_le_bytes())
            .finish();
        SignedReceipt::decode(Envelope::seal(Kind::Receipt, network, &body, &[admitter], crypto)?)
    }
}

impl SignedReceipt {
    /// Reads a receipt whose signature was checked.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn decode(envelope: Envelope) -> Result<Self, RecordError> {
        let admitter = IdentityKey(envelope.only_signer(Kind::Receipt)?);
        let fields = Fields::read(envelope.body(), KNOWN)?;
        let receipt = Receipt {
            member: RecordId(fields.array(MEMBER)?),
            nonce: fields.array(NONCE)?,
            time: u64::from_le_bytes(fields.array(TIME)?),
            reach: u16::from_le_bytes(fields.array(REACH)?),
        };
        Ok(Self { receipt, admitter, envelope })
    }
}
