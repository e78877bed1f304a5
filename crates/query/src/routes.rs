//! Every path of the service, in one table. The router, the metrics' labels and the test of the `OpenAPI` document are
//! made from it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::http::Method;

use crate::api::{Call, Inner, Reply};
use crate::error::ApiError;
use crate::{commands, reads};

type Handled = Pin<Box<dyn Future<Output = Result<Reply, ApiError>> + Send>>;

/// What a path does with one method.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) method: Method,
    /// Whether the API key is needed.
    pub(crate) needs_key: bool,
    /// Parameters beside the common ones.
    own: &'static [&'static str],
    /// Whether it takes the common parameters.
    common: Common,
    pub(crate) handler: fn(Arc<Inner>, Call) -> Handled,
}

/// Which common parameters an operation takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Common {
    /// `app`, `at` and `at_least`: what is read belongs to one application.
    Keyed,
    /// `app` and `at_least`: what is told goes on with the time.
    Now,
    /// `at_least`: about the partitions as such.
    Partitions,
    /// None.
    Nothing,
}

impl Operation {
    /// Every parameter that it takes.
    pub(crate) fn parameters(&self) -> Vec<&'static str> {
        let common: &[&str] = match self.common {
            Common::Keyed => &["app", "at", "at_least"],
            Common::Now => &["app", "at_least"],
            Common::Partitions => &["at_least"],
            Common::Nothing => &[],
        };
        self.own.iter().chain(common).copied().collect()
    }
}

/// A path.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) pattern: &'static str,
    pub(crate) operations: &'static [Operation],
}

macro_rules! operation {
    ($method:ident, $common:ident, $own:expr, key: $key:expr, $handler:path) => {
        Operation {
            method: Method::$method,
            needs_key: $key,
            own: &$own,
            common: Common::$common,
            handler: |inner, call| Box::pin($handler(inner, call)),
        }
    };
    ($method:ident, $common:ident, $own:expr, $handler:path) => {
        operation!($method, $common, $own, key: false, $handler)
    };
}

/// Every path.
pub(crate) static ROUTES: &[Route] = &[
    Route { pattern: "/", operations: &[operation!(GET, Nothing, [], reads::index::index)] },
    Route { pattern: "/openapi.json", operations: &[operation!(GET, Nothing, [], reads::index::openapi)] },
    Route {
        pattern: "/v1/rooms",
        operations: &[operation!(GET, Keyed, ["sort", "limit", "after"], reads::rooms::rooms)],
    },
    Route { pattern: "/v1/rooms/{room}", operations: &[operation!(GET, Keyed, [], reads::room::room)] },
    Route {
        pattern: "/v1/rooms/{room}/minutes",
        operations: &[operation!(GET, Keyed, ["from", "to", "limit", "after"], reads::minutes::minutes)],
    },
    Route {
        pattern: "/v1/rooms/{room}/viewers",
        operations: &[operation!(GET, Keyed, ["sort", "from", "to", "limit", "after"], reads::viewers::viewers)],
    },
    Route { pattern: "/v1/rooms/{room}/live", operations: &[operation!(GET, Now, [], reads::live::live)] },
    Route {
        pattern: "/v1/recommendations",
        operations: &[operation!(GET, Keyed, ["limit", "after"], reads::rooms::recommendations)],
    },
    Route { pattern: "/v1/levels", operations: &[operation!(GET, Keyed, [], reads::levels::levels)] },
    Route { pattern: "/v1/users/{account}", operations: &[operation!(GET, Keyed, [], reads::user::user)] },
    Route { pattern: "/v1/status", operations: &[operation!(GET, Partitions, [], reads::status::status)] },
    Route {
        pattern: "/v1/rules",
        operations: &[
            operation!(GET, Partitions, [], commands::rules::show),
            operation!(POST, Nothing, ["by"], key: true, commands::rules::apply),
        ],
    },
    Route { pattern: "/v1/rules/history", operations: &[operation!(GET, Partitions, [], commands::rules::history)] },
    Route {
        pattern: "/v1/dead-letters",
        operations: &[operation!(GET, Partitions, ["partition", "limit"], commands::dead_letters::dead_letters)],
    },
    Route {
        pattern: "/v1/rebuild",
        operations: &[
            operation!(GET, Partitions, [], commands::rebuild::progress),
            operation!(POST, Nothing, ["partition"], key: true, commands::rebuild::start),
        ],
    },
    Route {
        pattern: "/v1/snapshots",
        operations: &[
            operation!(GET, Partitions, [], commands::snapshots::progress),
            operation!(POST, Nothing, ["partition"], key: true, commands::snapshots::start),
        ],
    },
    Route { pattern: "/v1/log/trim", operations: &[operation!(POST, Nothing, [], key: true, commands::trim::trim)] },
];

/// Every path's pattern, for metrics.
pub(crate) fn patterns() -> impl Iterator<Item = &'static str> {
    ROUTES.iter().map(|r| r.pattern)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value as Json;

    use super::*;
    use crate::error::Code;

    fn document() -> Json {
        serde_json::from_str(crate::OPENAPI).expect("openapi.json is JSON")
    }

    fn resolve<'d>(document: &'d Json, value: &'d Json) -> &'d Json {
        match value["$ref"].as_str() {
            Some(target) => document.pointer(target.trim_start_matches('#')).unwrap_or_else(|| panic!("{target}")),
            None => value,
        }
    }

    #[test]
    fn the_document_and_the_router_have_the_same_operations() {
        let document = document();
        let paths = document["paths"].as_object().expect("paths");
        let documented: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().expect("an object").keys();
                methods.map(move |method| (path.clone(), method.to_uppercase()))
            })
            .collect();
        let routed: BTreeSet<(String, String)> = ROUTES
            .iter()
            .flat_map(|r| r.operations.iter().map(|o| (r.pattern.to_owned(), o.method.to_string())))
            .collect();
        assert_eq!(documented, routed);
    }

    #[test]
    fn the_document_names_the_parameters_that_are_taken_and_no_others() {
        let document = document();
        for route in ROUTES {
            for operation in route.operations {
                let name = format!("{} {}", operation.method, route.pattern);
                let described = &document["paths"][route.pattern][operation.method.as_str().to_lowercase()];
                let all = described["parameters"].as_array().cloned().unwrap_or_default();
                let all: Vec<&Json> = all.iter().map(|p| resolve(&document, p)).collect();
                let of = |place: &str| -> BTreeSet<String> {
                    let those = all.iter().filter(|p| p["in"] == place);
                    those.map(|p| p["name"].as_str().expect("a name").to_owned()).collect()
                };
                let taken: BTreeSet<String> = operation.parameters().iter().map(|p| (*p).to_owned()).collect();
                assert_eq!(of("query"), taken, "{name}");
                let in_path: BTreeSet<String> =
                    route.pattern.split(['{', '}']).skip(1).step_by(2).map(str::to_owned).collect();
                assert_eq!(of("path"), in_path, "{name}");
                let locked = described["security"].as_array().is_some_and(|s| !s.is_empty());
                assert_eq!(locked, operation.needs_key, "{name}: security");
            }
        }
    }

    #[test]
    fn the_document_names_every_error_code() {
        let document = document();
        let listed = document.pointer("/components/schemas/Error/properties/error/properties/code/enum");
        let listed: BTreeSet<&str> =
            listed.and_then(Json::as_array).expect("an enum").iter().filter_map(Json::as_str).collect();
        assert_eq!(listed, Code::ALL.iter().map(|c| c.as_str()).collect());
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        fn walk(document: &Json, value: &Json) {
            match value {
                Json::Object(fields) => {
                    resolve(document, value);
                    fields.values().for_each(|v| walk(document, v));
                }
                Json::Array(items) => items.iter().for_each(|v| walk(document, v)),
                _ => {}
            }
        }
        let document = document();
        walk(&document, &document);
    }
}
