//! `/v1/rooms/{room}/viewers`: members and top lists.

use std::sync::Arc;

use barrage_event::Topic;
use barrage_projection::ViewersPage;
use serde_json::{Map, Value as Json};

use super::{cacheable, room_fields};
use crate::api::{Call, Inner, Reply};
use crate::cursor::{self, Kind};
use crate::error::ApiError;

pub(crate) async fn viewers(inner: Arc<Inner>, call: Call) -> Result<Reply, ApiError> {
    let app = inner.app(&call)?;
    let limit = call.params.limit()?;
    let sorts: Vec<&'static str> =
        inner.parts.stores.statistics().iter().flat_map(|s| s.viewer_sorts()).copied().collect();
    let sort = call.params.word("sort", &sorts)?.unwrap_or_default();
    let after = match call.params.text("after") {
        Some(text) => Some(String::from_utf8(cursor::decode(Kind::Viewers, sort, text)?).map_err(|_| cursor::wrong())?),
        None => None,
    };
    inner.scan(move |inner| list(inner, &call, app, (sort, limit, after.as_deref()))).await
}

fn list(
    inner: &Inner,
    call: &Call,
    app: u32,
    (sort, limit, after): (&str, usize, Option<&str>),
) -> Result<Reply, ApiError> {
    let statistic = inner.parts.stores.statistics().iter().find(|s| s.viewer_sorts().contains(&sort));
    let (page, seen) = inner.read_key(Topic::Room, app, call, |view| {
        room_fields(inner, view, app, &call.key)?;
        let Some(statistic) = statistic else { return Ok(ViewersPage::default()) };
        statistic.viewers(&view.context(app), &call.key, sort, limit, after)?.ok_or_else(cursor::wrong)
    })?;
    let viewers = page.viewers.into_iter().map(Json::Object).collect();
    let mut fields = Map::from_iter([
        ("room".to_owned(), Json::from(call.key.as_str())),
        ("sort".to_owned(), sort.into()),
        ("viewers".to_owned(), Json::Array(viewers)),
    ]);
    if let Some(next) = page.next {
        fields.insert("next".to_owned(), cursor::encode(Kind::Viewers, sort, next.as_bytes()).into());
    }
    Ok(cacheable(call, &[seen], fields))
}
