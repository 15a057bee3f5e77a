//! The forms that change a key, a team or a user: one shape for all three.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use super::{
    form::{Form, FormField},
    key_fields,
    layout::{self, Section, title_of},
    limits::{self, UNLIMITED},
    request::{FormFields, PageError, SignedIn, SubmittedForm},
    secret::managed,
    users::SIGN_IN,
};
use crate::{
    Plane,
    api::{
        body::Body,
        keys,
        people::{self, UpdateTeam, UpdateUser},
    },
    error::ApiError,
    store::{
        keys::Key,
        limits::ScopeLimits,
        people::{Team, User},
    },
};

/// Said where something was changed.
pub const SAVED: &str = "saved";

/// What it says.
pub const IS_SAVED: &str = "The changes are saved.";

/// What can be changed.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// By whoever manages it.
    Key,
    /// By the operator.
    Team,
    /// By the operator.
    User,
}

/// What is changed.
enum Subject {
    Key(Box<Key>),
    Team(Team),
    User(User),
}

/// `GET …/edit`.
pub async fn ask(
    kind: Kind,
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    signed: SignedIn,
) -> Result<Response, PageError> {
    let subject = Subject::load(kind, &plane, &signed, id).await?;
    let fields = subject.filled();
    Ok(page(&signed, &subject, &Form::new(&fields, None)))
}

/// `POST …/edit`.
pub async fn save(
    kind: Kind,
    State(plane): State<Arc<Plane>>,
    Path(id): Path<String>,
    SubmittedForm { signed, fields, .. }: SubmittedForm,
) -> Result<Response, PageError> {
    let subject = Subject::load(kind, &plane, &signed, id).await?;
    match subject.update(&plane, &signed, &fields).await {
        Ok(()) => Ok(Redirect::to(&format!("{}?done={SAVED}", subject.path())).into_response()),
        Err(refusal) => {
            let fields = fields.or(subject.filled());
            Ok(page(&signed, &subject, &Form::new(&fields, Some(&refusal))))
        }
    }
}

impl Subject {
    /// What the caller may change.
    async fn load(kind: Kind, plane: &Arc<Plane>, signed: &SignedIn, id: String) -> Result<Self, ApiError> {
        let (state, caller) = (State(plane.clone()), signed.caller.clone());
        if !matches!(kind, Kind::Key) {
            caller.must_be_operator()?;
        }
        Ok(match kind {
            Kind::Key => Self::Key(Box::new(managed(plane, &caller, &id).await?)),
            Kind::Team => Self::Team(people::show_team(state, caller, Path(id)).await?.0),
            Kind::User => Self::User(people::show_user(state, caller, Path(id)).await?.0),
        })
    }

    fn path(&self) -> String {
        match self {
            Self::Key(key) => format!("/keys/{}", key.id),
            Self::Team(team) => format!("/teams/{}", team.id),
            Self::User(user) => format!("/users/{}", user.id),
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Key(key) => &key.name,
            Self::Team(Team { name, .. }) | Self::User(User { name, .. }) => name,
        }
    }

    /// The list that it is of.
    fn list(&self) -> (Section, &'static str, &'static str) {
        match self {
            Self::Key(_) => (Section::Keys, "/", "Keys"),
            Self::Team(_) => (Section::Teams, "/teams", "Teams"),
            Self::User(_) => (Section::Users, "/users", "Users"),
        }
    }

    fn filled(&self) -> FormFields {
        match self {
            Self::Key(key) => key_fields::filled(key),
            Self::Team(Team { name, limits, .. }) => {
                FormFields::from(limits::filled(limits)).and([("name", name.clone())])
            }
            Self::User(User { name, limits, sign_in, .. }) => FormFields::from(limits::filled(limits))
                .and([("name", name.clone()), ("sign_in", sign_in.clone().unwrap_or_default())]),
        }
    }

    fn lines(&self, form: &Form<'_>, signed: &SignedIn) -> Markup {
        let of_all = match self {
            Self::Key(_) => {
                return html! { (key_fields::name_line(form)) (key_fields::lines(form, signed, true)) };
            }
            Self::Team(_) => "These limits hold for all keys of the team together.",
            Self::User(_) => "These limits hold for all keys of the user's own together.",
        };
        let name = FormField {
            name: "name",
            label: "Name",
            hint: "1 to 50 characters.",
            is_required: true,
            ..FormField::default()
        };
        html! {
            (form.line(name))
            @if let Self::User(_) = self { (form.line(SIGN_IN)) }
            (limits::lines(form, UNLIMITED))
            p.hint { (of_all) }
        }
    }

    async fn update(&self, plane: &Arc<Plane>, signed: &SignedIn, fields: &FormFields) -> Result<(), ApiError> {
        let (state, caller) = (State(plane.clone()), signed.caller.clone());
        match self {
            Self::Key(key) => {
                let asked = key_fields::update(&caller, fields, key)?;
                let Json(_) = keys::update(state, caller, Path(key.id.clone()), Body(asked)).await?;
            }
            Self::Team(team) => {
                let (name, limits) = holder(fields, (&team.name, &team.limits))?;
                let asked = UpdateTeam { name, limits };
                let Json(_) = people::update_team(state, caller, Path(team.id.clone()), Body(asked)).await?;
            }
            Self::User(user) => {
                let (name, limits) = holder(fields, (&user.name, &user.limits))?;
                let stated = fields.given("sign_in").map(str::to_owned);
                let sign_in = (fields.has("sign_in") && stated != user.sign_in).then_some(stated);
                let asked = UpdateUser { name, limits, sign_in };
                let Json(_) = people::update_user(state, caller, Path(user.id.clone()), Body(asked)).await?;
            }
        }
        Ok(())
    }
}

/// The name and the limits that are asked for.
fn holder(
    fields: &FormFields,
    (name, is): (&str, &ScopeLimits),
) -> Result<(Option<String>, Option<ScopeLimits>), ApiError> {
    let asked = fields.text("name");
    let name = (fields.has("name") && asked != name).then(|| asked.to_owned());
    Ok((name, Some(limits::asked(fields, is)?)))
}

fn page(signed: &SignedIn, subject: &Subject, form: &Form<'_>) -> Response {
    let (section, list, of) = subject.list();
    let (path, name) = (subject.path(), subject.name());
    let heading = format!("Edit “{name}”");
    let main = html! {
        div.narrow {
            p.crumb { a href=(list) { (of) } " / " a href=(path) { (name) } }
            h1 { (heading) }
            (form.around(|| html! {
                form.panel method="post" action=(format!("{path}/edit")) {
                    (layout::form_token(signed))
                    (subject.lines(form, signed))
                    div.actions {
                        button type="submit" { "Save" }
                        a href=(path) { "Cancel" }
                    }
                }
            }))
        }
    };
    layout::refused(layout::page(&title_of(&heading, form.error), section, signed, &main), form.error)
}
