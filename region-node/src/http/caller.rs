//! Who is calling: the session from a bearer token or a cookie, and whether a page of another origin is behind it.
//!
//! Browsers send cookies along wherever a request comes from, so a call that changes something and is authenticated by
//! cookie must come from our own origin. A bearer token needs no such check: nobody else's page has it.

use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use http::{HeaderMap, HeaderName, HeaderValue};
use region_api::session::Verified;
use region_api::{Code, Session};
use url::Url;

use super::problem::Refusal;
use crate::app::App;
use crate::clock;

/// Cookie with the session.
pub(crate) const SESSION_COOKIE: &str = "boxoffice_session";
/// Cookie that finds a guest again after the session is long over.
pub(crate) const RECOVERY_COOKIE: &str = "boxoffice_guest";

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A caller with a valid session.
pub(crate) struct Caller<'a> {
    /// What the token says.
    pub(crate) session: Session,
    /// The token itself, to pass it on.
    pub(crate) token: &'a str,
}

/// The caller of a call that changes nothing.
pub(crate) fn reader<'a>(app: &App, headers: &'a HeaderMap) -> Result<Caller<'a>, Refusal> {
    let (token, _) = token(headers).ok_or_else(|| unauthenticated("a session is needed: POST /v1/session"))?;
    verify(app, token)
}

/// The caller of a call that changes something.
pub(crate) fn writer<'a>(app: &App, headers: &'a HeaderMap) -> Result<Caller<'a>, Refusal> {
    let (token, by_cookie) = token(headers).ok_or_else(|| unauthenticated("a session is needed: POST /v1/session"))?;
    let caller = verify(app, token)?;
    if by_cookie && !same_origin(headers, &app.config.public.base_url) {
        return Err(Refusal::new(Code::Forbidden, "a call with the session's cookie must come from this site"));
    }
    Ok(caller)
}

fn verify<'a>(app: &App, token: &'a str) -> Result<Caller<'a>, Refusal> {
    match Session::verify(token, &app.keys, clock::now_ms()) {
        Ok(Verified::Fresh(session)) => Ok(Caller { session, token }),
        Ok(Verified::Renewable(_)) => Err(unauthenticated("the session has expired: POST /v1/session renews it")),
        Err(_) => Err(unauthenticated("the session is not valid")),
    }
}

fn unauthenticated(detail: &str) -> Refusal {
    Refusal::new(Code::Unauthenticated, detail)
}

/// The token, and whether it came by cookie. A bearer token goes before a cookie.
pub(crate) fn token(headers: &HeaderMap) -> Option<(&str, bool)> {
    bearer(headers).map(|token| (token, false)).or_else(|| cookie(headers, SESSION_COOKIE).map(|token| (token, true)))
}

/// The bearer token. Two headers are none: a proxy before us may look at the other one.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (Some(only), None) = (all.next(), all.next()) else { return None };
    let (scheme, token) = only.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A cookie's value.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
    let mut named = pairs.filter_map(|pair| pair.trim().split_once('=')).filter(|(key, _)| *key == name);
    named.next().map(|(_, value)| value)
}

/// A `Set-Cookie` for this site's scripts to never see. `None` when the value does not fit a header.
pub(crate) fn set_cookie(name: &str, value: &str, max_age_s: u64, secure: bool) -> Option<HeaderValue> {
    let secure = if secure { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{secure}");
    let mut header = HeaderValue::from_str(&text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// Whether a browser says that this site's own page asks. What says nothing about itself is not believed.
pub(crate) fn same_origin(headers: &HeaderMap, base_url: &Url) -> bool {
    if let Some(site) = headers.get(FETCH_SITE) {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = headers.get(ORIGIN).and_then(|o| o.to_str().ok()).and_then(|o| Url::parse(o).ok()) else {
        return false;
    };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let named = format!("{}://{}", origin.scheme(), host.unwrap_or_default());
    origin.origin() == base_url.origin() || Url::parse(&named).is_ok_and(|named| named.origin() == origin.origin())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_bearer_token_goes_before_a_cookie() {
        let both = headers(&[("cookie", "a=1; boxoffice_session=two ; b"), ("authorization", "bearer one")]);
        assert_eq!(token(&both), Some(("one", false)));
        let second_line = headers(&[("cookie", "a=1"), ("cookie", "boxoffice_session=two")]);
        assert_eq!(token(&second_line), Some(("two", true)));
        assert_eq!(token(&headers(&[("authorization", "Basic abc"), ("cookie", "xboxoffice_session=1")])), None);
    }

    #[test]
    fn only_our_own_pages_may_use_the_cookie_to_change_things() {
        let base = Url::parse("https://tickets.example").unwrap();
        let ours = |pairs: &[(&'static str, &str)]| same_origin(&headers(pairs), &base);
        assert!(ours(&[("sec-fetch-site", "same-origin")]));
        assert!(ours(&[("sec-fetch-site", "none")]));
        assert!(!ours(&[("sec-fetch-site", "cross-site"), ("origin", "https://tickets.example")]));
        assert!(!ours(&[("sec-fetch-site", "same-site")]));
        assert!(ours(&[("origin", "https://tickets.example")]));
        assert!(ours(&[("origin", "http://127.0.11.1:8080"), ("host", "127.0.11.1:8080")]));
        assert!(!ours(&[("origin", "https://evil.example"), ("host", "tickets.example")]));
        assert!(!ours(&[("origin", "null")]));
        assert!(!ours(&[]));
    }

    #[test]
    fn a_cookie_is_kept_from_scripts() {
        let cookie = set_cookie("n", "v", 60, true).unwrap();
        assert_eq!(cookie, "n=v; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure");
        assert!(!format!("{cookie:?}").contains("n=v"));
    }
}
