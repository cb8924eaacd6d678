//! Which scalars a number, a duration or a bool takes.

use super::{Dialect, Scalar};
use crate::patch::codec::parse_duration;

/// Typed bools also take the words of YAML 1.1.
pub(super) fn bool_of(scalar: &Scalar, text: &str) -> Option<bool> {
    match scalar {
        Scalar::Bool(value) => Some(*value),
        Scalar::Str => match text {
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "Go converts the same way")]
pub(super) fn float_of(scalar: &Scalar) -> Option<f64> {
    match scalar {
        Scalar::Float(value) => Some(*value),
        Scalar::Int(value) => Some(*value as f64),
        Scalar::Uint(value) => Some(*value as f64),
        _ => None,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "Go converts the same way")]
pub(super) fn int_of(scalar: &Scalar, bits: u32, dialect: Dialect) -> Option<i64> {
    let value = match scalar {
        Scalar::Int(value) => *value,
        Scalar::Uint(value) => i64::try_from(*value).ok()?,
        Scalar::Float(value) if *value <= i64::MAX as f64 && (cuts(dialect) || is_whole(*value)) => {
            *value as i64
        }
        _ => return None,
    };
    let limit = 1i64.checked_shl(bits - 1).filter(|_| bits < 64);
    limit.is_none_or(|limit| (-limit..limit).contains(&value)).then_some(value)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "Go converts the same way"
)]
pub(super) fn uint_of(scalar: &Scalar, bits: u32, dialect: Dialect) -> Option<u64> {
    let value = match scalar {
        Scalar::Int(value) => u64::try_from(*value).ok()?,
        Scalar::Uint(value) => *value,
        Scalar::Float(value) if !cuts(dialect) && (*value < 0.0 || !is_whole(*value)) => return None,
        // Before, a negative number became what the processor makes of it: one that does not fit.
        Scalar::Float(value) if *value <= -1.0 => return None,
        Scalar::Float(value) if *value <= u64::MAX as f64 => *value as u64,
        _ => return None,
    };
    (bits >= 64 || value >> bits == 0).then_some(value)
}

/// Until 1.12 an integer took any float, and lost what stands behind the point.
fn cuts(dialect: Dialect) -> bool {
    matches!(dialect, Dialect::V3 | Dialect::V4Rc3)
}

fn is_whole(value: f64) -> bool {
    value.is_finite() && value.trunc() == value
}

/// A number alone is no duration, except zero since 1.13, and a whole float (in nanoseconds) since 1.14.
pub(super) fn duration_of(scalar: &Scalar, text: &str, dialect: Dialect) -> Option<i64> {
    match scalar {
        Scalar::Str => parse_duration(text),
        Scalar::Int(0) if !cuts(dialect) => Some(0),
        Scalar::Float(_) if dialect == Dialect::V4Rc6 => int_of(scalar, 64, dialect),
        _ => None,
    }
}
