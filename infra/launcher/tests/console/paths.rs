//! What the paths say that the fake gateway is asked for.

/// An API behind the gateway.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Api {
    Snapshot,
    Health,
    Core,
}

impl Api {
    /// Which one serves what is at `path`.
    pub fn of(path: &str) -> Self {
        let parts: Vec<_> = path.split('/').skip(2).collect();
        match parts[..] {
            ["vehicles"] | ["vehicles", _, "snapshot"] => Self::Snapshot,
            ["health", ..] | ["vehicles", _, "health", ..] => Self::Health,
            _ => Self::Core,
        }
    }
}

/// A part of a path as it was meant; a name may have any sign in it.
pub fn decoded(part: &str) -> String {
    let mut bytes = part.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                u8::from_str_radix(str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => other,
        });
    }
    String::from_utf8(decoded).unwrap()
}
