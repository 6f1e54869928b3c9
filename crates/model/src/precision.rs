//! Types of values.

use tch::Kind;

/// The type in which norms, softmax and losses are computed over values of `kind`: fp32 at least.
pub fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}
