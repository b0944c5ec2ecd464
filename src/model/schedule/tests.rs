use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;

const BERLIN: &str = "Europe/Berlin";

fn stretch(keep: Keep, cron: &str, lasts: &str, time_zone: &str) -> Stretch {
    Stretch { keep, cron: cron.into(), lasts: lasts.parse().unwrap(), time_zone: time_zone.into() }
}

fn awake(cron: &str, lasts: &str, time_zone: &str) -> Stretch {
    stretch(Keep::Awake, cron, lasts, time_zone)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn office_hours_are_those_of_the_place() {
    let office = awake("0 8 * * 1-5", "10h", BERLIN);
    // A Thursday in winter: an hour ahead of UTC.
    for (now, until) in [
        ("2026-01-15T06:59:59.999Z", None),
        ("2026-01-15T07:00:00Z", Some("2026-01-15T17:00:00Z")),
        ("2026-01-15T16:59:59.999Z", Some("2026-01-15T17:00:00Z")),
        ("2026-01-15T17:00:00Z", None),
        ("2026-07-16T06:00:00Z", Some("2026-07-16T16:00:00Z")),
        ("2026-07-18T08:00:00Z", None),
    ] {
        assert_eq!(office.until(at(now)), until.map(at), "{now}");
    }
    assert_eq!(office.begins(at("2026-01-16T07:00:00Z")), Some(at("2026-01-19T07:00:00Z")), "Friday, then Monday");
    assert_eq!(office.in_zone(at("2026-01-15T17:00:00Z")), "2026-01-15 18:00 Europe/Berlin");
    assert_eq!(awake("0 8 * * *", "1h", "").in_zone(at("2026-01-15T17:00:00Z")), "2026-01-15 17:00 UTC");
}

#[test]
fn a_beginning_that_is_left_out_comes_right_after_and_one_that_comes_twice_the_first_time() {
    // 2026-03-29: 02:00 becomes 03:00, at 01:00 UTC.
    let night = awake("30 2 * * *", "2h", BERLIN);
    assert_eq!(night.begins(at("2026-03-28T12:00:00Z")), Some(at("2026-03-29T01:00:00Z")));
    assert_eq!(night.until(at("2026-03-29T00:59:59Z")), None);
    assert_eq!(night.until(at("2026-03-29T01:00:00Z")), Some(at("2026-03-29T03:00:00Z")));
    // 2026-10-25: 03:00 becomes 02:00, at 01:00 UTC; 02:30 is at 00:30 and at 01:30 UTC.
    assert_eq!(night.begins(at("2026-10-24T12:00:00Z")), Some(at("2026-10-25T00:30:00Z")));
    assert_eq!(night.begins(at("2026-10-25T00:30:00Z")), Some(at("2026-10-26T01:30:00Z")), "once");
    for now in ["2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:29:59Z"] {
        assert_eq!(night.until(at(now)), Some(at("2026-10-25T02:30:00Z")), "{now}");
    }
    assert_eq!(night.until(at("2026-10-25T02:30:00Z")), None);
    // Over the change, elapsed time counts.
    let late = awake("0 22 * * 6", "8h", BERLIN);
    assert_eq!(late.until(at("2026-03-28T22:00:00Z")), Some(at("2026-03-29T05:00:00Z")));
}

#[test]
fn of_several_the_one_that_keeps_awake_holds_and_then_the_one_that_ends_last() {
    let schedule =
        [stretch(Keep::Asleep, "0 18 * * *", "14h", ""), awake("0 20 * * *", "1h", ""), awake("30 20 * * *", "1h", "")];
    let held = |now| held(&schedule, at(now)).map(|h| (h.index, h.until));
    assert_eq!(held("2026-01-15T17:00:00Z"), None);
    assert_eq!(held("2026-01-15T18:00:00Z"), Some((0, at("2026-01-16T08:00:00Z"))));
    assert_eq!(held("2026-01-15T20:00:00Z"), Some((1, at("2026-01-15T21:00:00Z"))));
    assert_eq!(held("2026-01-15T20:30:00Z"), Some((2, at("2026-01-15T21:30:00Z"))));
    assert_eq!(held("2026-01-15T21:30:00Z"), Some((0, at("2026-01-16T08:00:00Z"))));
    let change = |now| next_change(&schedule, at(now));
    assert_eq!(change("2026-01-15T17:00:00Z"), Some(at("2026-01-15T18:00:00Z")));
    assert_eq!(change("2026-01-15T20:10:00Z"), Some(at("2026-01-15T20:30:00Z")));
    assert_eq!(change("2026-01-15T20:40:00Z"), Some(at("2026-01-15T21:00:00Z")));
    assert_eq!(next_awake(&schedule, at("2026-01-15T20:10:00Z")), Some((at("2026-01-15T20:30:00Z"), 2)));
    assert_eq!(next_change(&[], at("2026-01-15T20:10:00Z")), None);
}

#[test]
fn an_end_is_that_of_the_last_stretch_which_follows_without_a_gap() {
    let ends = |schedule: &[Stretch], now| end(schedule, &held(schedule, at(now)).unwrap());
    let halves = [awake("0,30 8-17 * * *", "30m", "")];
    for now in ["2026-01-15T08:00:00Z", "2026-01-15T12:10:00Z", "2026-01-15T17:59:00Z"] {
        assert_eq!(ends(&halves, now), Some(at("2026-01-15T18:00:00Z")), "{now}: it does not slide");
    }
    let minutes = [awake("* 8-17 * * *", "1m", "")];
    assert_eq!(ends(&minutes, "2026-01-15T08:00:00Z"), Some(at("2026-01-15T18:00:00Z")));
    let gap = [awake("0,31 8-17 * * *", "30m", "")];
    assert_eq!(ends(&gap, "2026-01-15T08:00:00Z"), Some(at("2026-01-15T08:30:00Z")));
    let two =
        [awake("0 8 * * *", "4h", ""), awake("0 12 * * *", "6h", ""), stretch(Keep::Asleep, "0 18 * * *", "1h", "")];
    assert_eq!(ends(&two, "2026-01-15T09:00:00Z"), Some(at("2026-01-15T18:00:00Z")));
    for endless in [awake("*/30 * * * *", "1h", ""), awake("@daily", "25h", ""), awake("* * * * *", "1m", "")] {
        assert_eq!(ends(std::slice::from_ref(&endless), "2026-01-15T09:00:00Z"), None, "{endless:?}");
    }
    let nights = [stretch(Keep::Asleep, "@hourly", "1h", ""), awake("0 20 * * *", "1h", "")];
    assert_eq!(ends(&nights, "2026-01-15T09:00:00Z"), Some(at("2026-01-15T20:00:00Z")), "until it is kept awake");
    let never = [stretch(Keep::Asleep, "@hourly", "1h", "")];
    assert_eq!(ends(&never, "2026-01-15T09:00:00Z"), None);
}

#[test]
fn a_rest_counts_in_a_time_if_it_has_a_moment_in_it() {
    let nights = [stretch(Keep::Asleep, "0 1 * * *", "5h", ""), awake("0 7 * * *", "1h", "")];
    let within = |from: &str, to: &str| {
        rests_within(&nights, at(&format!("2026-01-15T{from}Z")), at(&format!("2026-01-15T{to}Z")))
    };
    for (from, to, expected) in [
        ("00:00:00", "01:00:00", false),
        ("00:00:00", "01:00:01", true),
        ("05:59:59", "09:00:00", true),
        ("06:00:00", "09:00:00", false),
        ("02:00:00", "03:00:00", true),
        ("03:00:00", "02:00:00", false),
        ("02:00:00", "02:00:00", false),
    ] {
        assert_eq!(within(from, to), expected, "{from} {to}");
    }
    assert_eq!(next_rest(&nights, at("2026-01-15T07:00:00Z")), Some((at("2026-01-16T01:00:00Z"), 0)));
}

fn errors(schedule: &[Stretch]) -> Vec<String> {
    let mut errors = FieldErrors::default();
    validate_schedule(schedule, &mut errors);
    Vec::from(errors).iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_no_time_is_told_by_its_path() {
    for cron in ["0 8 * * 1-5", "*/5 * * * *", "@daily", "0 0 L * *", "0 0 29 2 *", "30 7 * JAN-MAR mon#2"] {
        assert_eq!(errors(&[awake(cron, "1h", BERLIN)]), [""; 0], "{cron}");
    }
    for cron in [
        "",
        "8",
        "0 8 * *",
        "0 0 8 * * *",
        "60 8 * * *",
        "0 8 * * x",
        "@often",
        "0 8 * * ü",
        "0 0 30 2 *",
        "*/0 * * * *",
    ] {
        let told = errors(&[awake("@daily", "1h", ""), awake(cron, "1h", BERLIN)]);
        assert!(
            told.len() == 1 && told[0].starts_with("spec.idle.schedule[1].cron: Invalid value"),
            "{cron}: {told:?}"
        );
    }
    let told = errors(&[awake("@daily", "59s", "Mars/Olympus")]);
    assert!(
        told[0].starts_with("spec.idle.schedule[0].for: Invalid value: \"59s\": must be from 1m to 168h"),
        "{told:?}"
    );
    assert!(
        told[1].starts_with("spec.idle.schedule[0].timeZone: Invalid value: \"Mars/Olympus\": must be"),
        "{told:?}"
    );
}

/// Patterns of every kind: one time of day, several, steps, days that are rare.
fn patterns() -> impl Strategy<Value = String> {
    let minute = prop_oneof!["[0-5]?[0-9]", Just("*".to_owned()), Just("*/7".to_owned()), Just("0,30".to_owned())];
    let hour = prop_oneof!["1?[0-9]", Just("*".to_owned()), Just("2".to_owned()), Just("1-3".to_owned())];
    let day = prop_oneof![Just("*".to_owned()), Just("L".to_owned()), Just("25-31".to_owned())];
    let week = prop_oneof![Just("*".to_owned()), Just("0".to_owned()), Just("1-5".to_owned())];
    (minute, hour, day, week).prop_map(|(m, h, d, w)| format!("{m} {h} {d} * {w}"))
}

/// Places that put their clocks forward and back at different hours; Lord Howe by half an hour; Casablanca four times a year.
const PLACES: [&str; 7] =
    ["", BERLIN, "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "America/Havana", "Asia/Kathmandu"];

/// Moments near a change of the clocks of its place, or anywhere.
fn moments(place: &'static str) -> impl Strategy<Value = Timestamp> {
    let zone = zone(if place.is_empty() { UTC } else { place }).unwrap();
    let from = at("2010-01-01T00:00:00Z");
    let changes: Vec<_> = zone.following(from).map(|t| t.timestamp()).take(34).collect();
    let anywhere = (0i64..500_000_000).prop_map(move |s| from + SignedDuration::from_secs(s));
    if changes.is_empty() {
        return anywhere.boxed();
    }
    let near = (prop::sample::select(changes), -14_400i64..14_400);
    prop_oneof![2 => near.prop_map(|(change, by)| change + SignedDuration::from_secs(by)), 1 => anywhere].boxed()
}

fn cases() -> impl Strategy<Value = (Stretch, Timestamp)> {
    let place = prop::sample::select(PLACES.to_vec());
    let lasts = prop::sample::select(vec!["1m", "30m", "1h", "10h", "25h", "168h"]);
    place.prop_flat_map(move |place| {
        (patterns(), lasts.clone(), moments(place))
            .prop_map(move |(cron, lasts, now)| (awake(&cron, lasts, place), now))
    })
}

proptest! {
    /// The beginnings are one row: whichever way it is walked, now lies between the last and the next.
    #[test]
    fn what_began_last_and_what_begins_next_are_neighbours((stretch, now) in cases()) {
        let began = stretch.began(now).unwrap();
        let next = stretch.begins(now).unwrap();
        prop_assert!(began <= now && now < next, "{began} {now} {next}");
        prop_assert_eq!(stretch.begins(began), Some(next), "one between {} and {} is passed over", began, next);
        prop_assert_eq!(stretch.began(next), Some(next));
        prop_assert_eq!(stretch.until(next), Some(next + stretch.lasts.duration()));
    }

    /// Until its end it holds at every moment, and at its end no longer; whenever it is asked, the end is the same.
    #[test]
    fn it_holds_until_its_end((stretch, now) in cases(), (other, _) in cases(), share in 0.0f64..1.0) {
        let schedule = [stretch, other];
        let Some(holds) = held(&schedule, now) else { return Ok(()) };
        let Some(over) = end(&schedule, &holds) else { return Ok(()) };
        prop_assert!(held(&schedule, over).is_none(), "{} {}", now, over);
        let length = Duration::try_from(over.duration_since(now)).unwrap();
        let between = now + length.mul_f64(share * 0.999_999);
        let later = held(&schedule, between);
        prop_assert!(later.is_some(), "{} {} {}", now, between, over);
        prop_assert_eq!(later.and_then(|later| end(&schedule, &later)), Some(over));
    }

    /// Between two changes nothing changes, and each change is one.
    #[test]
    fn nothing_changes_before_the_next_change((stretch, now) in cases(), share in 0.0f64..1.0) {
        let schedule = [stretch];
        let change = next_change(&schedule, now).unwrap();
        prop_assert!(change > now);
        let length = Duration::try_from(change.duration_since(now)).unwrap();
        let between = now + length.mul_f64(share * 0.999_999);
        let held = |at| held(&schedule, at).map(|held| (held.index, held.until));
        prop_assert_eq!(held(between), held(now));
        prop_assert!(held(change) != held(now), "{}", change);
    }

    #[test]
    fn whatever_is_written_is_judged(text in "[0-9*/,LW#?+@A-Z -]{0,40}", zone in "[A-Za-z/_]{0,20}") {
        let stretch = awake(&text, "1h", &zone);
        let taken = errors(std::slice::from_ref(&stretch)).is_empty();
        let now = at("2026-01-15T17:00:00Z");
        prop_assert!(!taken || stretch.begins(now).is_some());
    }
}
