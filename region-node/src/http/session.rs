//! `POST /v1/session` and `GET /v1/challenge`: who somebody is, for half an hour at a time.
//!
//! Who comes with an older session (or a guest's recovery cookie) stays the same user with the same home. Nothing here
//! touches the database; a challenge's nonce is marked as used in Redis.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, SET_COOKIE};
use http::{HeaderMap, HeaderValue, StatusCode};
use region_api::challenge::Challenge;
use region_api::session::Verified;
use region_api::wire::session::ChallengeAlgorithm;
use region_api::wire::{ChallengeAnswer, ChallengeSolution, SessionAnswer, SessionRequest};
use region_api::{Code, Recovery, Session, Timestamp, UserId};
use std::sync::Arc;
use std::time::Duration;

use super::body;
use super::caller::{self, RECOVERY_COOKIE, SESSION_COOKIE};
use super::problem::Refusal;
use crate::app::App;
use crate::{clock, limits};

/// `POST /v1/session`
pub(crate) async fn begin(State(app): State<Arc<App>>, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let bytes = body::read(body, region_api::limits::BODY_MAX_BYTES).await?;
    // A guest needs to say nothing: no body is `{}`.
    let asked: SessionRequest =
        if bytes.is_empty() { SessionRequest::default() } else { region_api::body::parse(&bytes)? };
    let now_ms = clock::now_ms();
    let earlier = earlier(&app, &parts.headers, now_ms)?;
    let user = match &asked.id_token {
        Some(token) => {
            let jwks =
                app.jwks.as_ref().ok_or_else(|| Refusal::invalid("id_token", "no identity provider is configured"))?;
            Some(UserId::Subject(jwks.subject(token).await?))
        }
        None => None,
    };
    let solved = match &asked.challenge {
        Some(solution) => solve(&app, solution, now_ms).await.map(|()| true)?,
        None => false,
    };
    let mut session = match (user, earlier) {
        (Some(user), Some(earlier)) if user == earlier.user => earlier.renewed(now_ms),
        (Some(user), _) => Session::begin(user, false, app.config.region.clone(), now_ms),
        (None, Some(earlier)) => earlier.renewed(now_ms),
        (None, None) => Session::begin(UserId::Guest(rand::random()), false, app.config.region.clone(), now_ms),
    };
    session.challenge_solved |= solved;
    Ok(answer(&app, &session, now_ms))
}

/// The session that this one continues: the one sent along, else the guest of the recovery cookie. A token that was
/// sent as such but is broken is refused; a stale cookie is what browsers have, and means nothing.
fn earlier(app: &App, headers: &HeaderMap, now_ms: u64) -> Result<Option<Session>, Refusal> {
    if let Some((token, by_cookie)) = caller::token(headers) {
        match Session::verify(token, &app.keys, now_ms) {
            // A page of another origin may neither renew nor learn somebody's session.
            Ok(_) if by_cookie && !caller::same_origin(headers, &app.config.public.base_url) => {
                return Err(Refusal::new(Code::Forbidden, "a call with the session's cookie must come from this site"));
            }
            Ok(Verified::Fresh(session) | Verified::Renewable(session)) => return Ok(Some(session)),
            Err(_) if by_cookie => {}
            Err(_) => return Err(Refusal::new(Code::Unauthenticated, "the session is not valid or expired long ago")),
        }
    }
    let Some(recovery) = caller::cookie(headers, RECOVERY_COOKIE) else { return Ok(None) };
    let Ok(recovery) = Recovery::verify(recovery, &app.keys, now_ms) else { return Ok(None) };
    if !caller::same_origin(headers, &app.config.public.base_url) {
        return Err(Refusal::new(Code::Forbidden, "a call with a guest's cookie must come from this site"));
    }
    Ok(Some(Session::begin(UserId::Guest(recovery.guest), false, recovery.home, now_ms)))
}

async fn solve(app: &App, solution: &ChallengeSolution, now_ms: u64) -> Result<(), Refusal> {
    let challenge = Challenge::check(&solution.nonce, &solution.solution, &app.keys, now_ms)?;
    // The nonce is unguessable and signed, so its random part alone names it.
    let key = format!("challenge:{}", uuid::Uuid::from_bytes(challenge.random).simple());
    let ttl = Duration::from_millis(challenge.expires_at_ms.saturating_sub(now_ms)) + Duration::from_secs(60);
    if app.queue.once(&key, ttl).await? {
        Ok(())
    } else {
        Err(Refusal::invalid("challenge.nonce", "was used before; fetch another"))
    }
}

fn answer(app: &App, session: &Session, now_ms: u64) -> Response {
    let token = session.sign(&app.keys);
    let secure = app.config.secure();
    let lifetime_s = session.expires_at_ms.saturating_sub(now_ms) / 1000 + region_api::limits::SESSION_RENEW_MS / 1000;
    let mut headers = HeaderMap::new();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // The cookie outlives the session by as long as that can be renewed.
    headers.extend(caller::set_cookie(SESSION_COOKIE, &token, lifetime_s, secure).map(|value| (SET_COOKIE, value)));
    if let UserId::Guest(guest) = session.user {
        let recovery = Recovery::begin(guest, session.home.clone(), now_ms).sign(&app.keys);
        let age_s = region_api::limits::RECOVERY_MS / 1000;
        if let Some(value) = caller::set_cookie(RECOVERY_COOKIE, &recovery, age_s, secure) {
            headers.append(SET_COOKIE, value);
        }
    }
    let answer = SessionAnswer {
        session: token,
        user_id: session.user.to_string(),
        expires_at: Timestamp::from_ms(session.expires_at_ms),
        home_region: session.home.clone(),
    };
    (StatusCode::CREATED, headers, Json(answer)).into_response()
}

/// `GET /v1/challenge`
pub(crate) async fn challenge(State(app): State<Arc<App>>) -> Response {
    let expires_at_ms = clock::now_ms() + limits::CHALLENGE_LIFE.as_millis() as u64;
    let challenge = Challenge { random: rand::random(), difficulty_bits: limits::CHALLENGE_BITS, expires_at_ms };
    let answer = ChallengeAnswer {
        nonce: challenge.sign(&app.keys),
        difficulty_bits: challenge.difficulty_bits,
        algorithm: ChallengeAlgorithm::Sha256,
        expires_at: Timestamp::from_ms(expires_at_ms),
    };
    ([(CACHE_CONTROL, "no-store")], Json(answer)).into_response()
}
