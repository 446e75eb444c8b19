//! How a set of tables that was built anew differs from the live one. Pure.

use std::fmt;

/// More vehicles than this are compared again all together, rather than by name.
pub(crate) const MOST_NAMED: usize = 10_000;

/// How many vehicles are how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// The same in both.
    pub(crate) equal: i64,
    /// Newer in what was built.
    pub(crate) newer: i64,
    /// Only in what was built.
    pub(crate) added: i64,
    /// As new in both, with other content.
    pub(crate) other: i64,
    /// Older in what was built.
    pub(crate) older: i64,
    /// Not in what was built.
    pub(crate) missing: i64,
    /// Workspaces and vehicles of those that are older or missing: the first [`MOST_NAMED`] and one.
    pub(crate) named: (Vec<String>, Vec<String>),
}

/// Which rows to compare.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// All.
    All,
    /// Those of these vehicles: workspaces and ids.
    Named(&'a [String], &'a [String]),
}

impl Comparison {
    /// How many vehicles would lose by a switch.
    pub(crate) fn behind(&self) -> i64 {
        self.older + self.missing
    }

    /// The rows that were behind.
    pub(crate) fn rows_behind(&self) -> Rows<'_> {
        let (workspaces, vehicles) = &self.named;
        if vehicles.len() > MOST_NAMED {
            Rows::All
        } else {
            Rows::Named(workspaces, vehicles)
        }
    }

    /// This one, after what was behind was looked at again.
    pub(crate) fn corrected(self, again: Self) -> Self {
        if matches!(self.rows_behind(), Rows::All) {
            return again;
        }
        Self {
            equal: self.equal + again.equal,
            newer: self.newer + again.newer,
            added: self.added + again.added,
            other: self.other + again.other,
            older: again.older,
            missing: again.missing,
            named: again.named,
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "compared with the live tables, vehicles that are")?;
        for (what, count) in [
            ("equal", self.equal),
            ("newer in what was built (repaired)", self.newer),
            ("only in what was built (repaired)", self.added),
            ("as new, with other values (repaired)", self.other),
            ("older in what was built", self.older),
        ] {
            writeln!(f, "  {what:<38}{count:>10}")?;
        }
        let what = "missing in what was built";
        write!(f, "  {what:<38}{:>10}", self.missing)?;
        let (workspaces, vehicles) = &self.named;
        for (workspace, vehicle) in workspaces.iter().zip(vehicles).take(10) {
            write!(f, "\n    such as {vehicle} of {workspace}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind(older: i64, names: usize) -> Comparison {
        Comparison {
            equal: 5,
            older,
            named: (
                vec!["w".to_owned(); names],
                (0..names).map(|number| format!("bus-{number}")).collect(),
            ),
            ..Comparison::default()
        }
    }

    #[test]
    fn what_has_caught_up_since_is_not_behind() {
        let again = Comparison {
            equal: 1,
            newer: 1,
            ..behind(0, 0)
        };
        let corrected = behind(2, 2).corrected(Comparison { equal: 1, ..again });
        assert_eq!((corrected.equal, corrected.newer), (6, 1));
        assert_eq!(corrected.behind(), 0);
    }

    #[test]
    fn too_many_to_name_are_all_compared_again() {
        let many = behind(99_999, MOST_NAMED + 1);
        assert!(matches!(many.rows_behind(), Rows::All));
        let again = behind(1, 1);
        assert_eq!(many.corrected(again.clone()), again);
    }

    #[test]
    fn the_text_names_some_that_are_behind() {
        let text = behind(12, 12).to_string();
        assert!(
            text.contains("equal                                          5"),
            "{text}"
        );
        assert_eq!(text.matches("such as").count(), 10);
        assert!(text.contains("bus-9 of w") && !text.contains("bus-10"));
    }
}
