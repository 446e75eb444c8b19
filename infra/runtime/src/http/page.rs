//! Pages of lists: how many items, and whether there are more.

use axum::http::StatusCode;

use super::Problem;

const USUAL: i64 = 100;
const MOST: i64 = 1000;

/// How many items a page has: 100 unless asked otherwise, 1 to 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSize(i64);

impl PageSize {
    /// What the query's `limit` asks for.
    pub fn asked(limit: Option<i64>) -> Result<Self, Problem> {
        let limit = limit.unwrap_or(USUAL);
        if (1..=MOST).contains(&limit) {
            return Ok(Self(limit));
        }
        let detail = format!("limit is {limit}; write a number from 1 to {MOST}");
        Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "invalid-limit",
            detail,
        ))
    }

    /// How many to look for: one more than the page holds tells whether there is a next one.
    #[must_use]
    pub const fn to_look_for(self) -> i64 {
        self.0 + 1
    }

    /// Cuts what was found to the page, and says by `cursor` of its last item where the next one
    /// begins, if there is one.
    #[must_use]
    pub fn cut<T, C>(self, mut found: Vec<T>, cursor: impl Fn(&T) -> C) -> (Vec<T>, Option<C>) {
        let most = usize::try_from(self.0).unwrap_or(usize::MAX);
        let has_more = found.len() > most;
        found.truncate(most);
        let next = found.last().filter(|_| has_more).map(cursor);
        (found, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_where_the_next_one_begins() {
        let size = PageSize::asked(Some(2)).unwrap();
        assert_eq!(size.to_look_for(), 3);
        assert_eq!(size.cut(vec![1, 2, 3], |last| *last), (vec![1, 2], Some(2)));
        assert_eq!(size.cut(vec![1, 2], |last| *last), (vec![1, 2], None));
        assert_eq!(size.cut(Vec::<i32>::new(), |last| *last), (vec![], None));
    }

    #[test]
    fn a_limit_has_bounds() {
        assert_eq!(PageSize::asked(None).unwrap(), PageSize(100));
        for limit in [0, -1, 1001] {
            let problem = PageSize::asked(Some(limit)).unwrap_err();
            assert!(problem.detail.contains("1 to 1000"), "{}", problem.detail);
        }
    }
}
