use proptest::prelude::*;

use super::*;

const T0: Timestamp = Timestamp::UNIX_EPOCH;
const HOUR: SignedDuration = SignedDuration::from_hours(1);
const DAY: SignedDuration = SignedDuration::from_hours(24);

fn wanted(names: &[(&str, &str)]) -> Wanted {
    names.iter().map(|(name, namespace)| ((*name).to_owned(), (*namespace).to_owned())).collect()
}

fn refusal(limited: bool, wait: Option<u64>) -> Refusal {
    Refusal { why: "no".into(), limited, wait: wait.map(Duration::from_secs) }
}

fn ninety_days(from: Timestamp) -> Span {
    Span { begins: from, ends: from + DAY * 90, window: None }
}

fn now_is(wanted: &Wanted, held: &BTreeMap<String, Span>, ledger: &Ledger, now: Timestamp) -> Plan {
    plan(wanted, held, ledger, &BTreeSet::new(), now)
}

#[test]
fn what_has_none_is_ordered_and_what_is_under_way_is_not() {
    let names = wanted(&[("a.test.example", "x"), ("b.test.example", "x")]);
    let nothing = (BTreeMap::new(), Ledger::default());
    assert_eq!(now_is(&names, &nothing.0, &nothing.1, T0).order, ["a.test.example", "b.test.example"]);
    let under_way = ["a.test.example".to_owned()].into();
    assert_eq!(plan(&names, &nothing.0, &nothing.1, &under_way, T0).order, ["b.test.example"]);
    assert_eq!(now_is(&Wanted::new(), &nothing.0, &nothing.1, T0), Plan::default());
}

#[test]
fn a_certificate_is_renewed_two_thirds_into_its_life_and_one_that_has_ended_at_once() {
    let names = wanted(&[("a.example", "x")]);
    let held = BTreeMap::from([("a.example".to_owned(), ninety_days(T0))]);
    let plan = now_is(&names, &held, &Ledger::default(), T0);
    assert!(plan.order.is_empty());
    let at = plan.look.unwrap();
    assert!(at <= T0 + DAY * 60 && at >= T0 + DAY * 55, "{at}");
    assert!(now_is(&names, &held, &Ledger::default(), at - SignedDuration::from_secs(1)).order.is_empty());
    for later in [at, T0 + DAY * 89, T0 + DAY * 91] {
        assert_eq!(now_is(&names, &held, &Ledger::default(), later).order, ["a.example"]);
    }
    assert_ne!(ninety_days(T0).renewal("a.example"), ninety_days(T0).renewal("b.example"), "not all at once");
}

#[test]
fn where_the_server_suggests_a_time_it_is_renewed_then_within_the_bounds_of_its_life() {
    let renewed = |start: SignedDuration, end: SignedDuration| {
        let window = Window::new(T0 + start, T0 + end);
        let at = |name: &str| Span { window, ..ninety_days(T0) }.renewal(name).duration_since(T0);
        (at("a.example"), at("b.example"))
    };
    let (a, b) = renewed(DAY * 30, DAY * 32);
    assert!(a >= DAY * 30 && a <= DAY * 32 && b >= DAY * 30 && b <= DAY * 32, "{a} {b}");
    assert_ne!(a, b, "not all at once");
    assert_eq!(renewed(DAY * 30, DAY * 32), (a, b), "the same whenever it is asked");
    // Long past, as for one that was taken back: as soon as may be; and a server that says so of each new one gets one a day.
    assert_eq!(renewed(DAY * -20, DAY * -10), (DAY, DAY));
    // Beyond its end: while there is a tenth of its life left.
    assert_eq!(renewed(DAY * 400, DAY * 500), (DAY * 81, DAY * 81));
    let names = wanted(&[("a.example", "x")]);
    let held =
        BTreeMap::from([("a.example".to_owned(), Span { window: Window::new(T0, T0 + HOUR), ..ninety_days(T0) })]);
    assert_eq!(now_is(&names, &held, &Ledger::default(), T0 + HOUR).look, Some(T0 + DAY));
    assert_eq!(now_is(&names, &held, &Ledger::default(), T0 + DAY).order, ["a.example"]);
    let short =
        Span { begins: T0, ends: T0 + SignedDuration::from_secs(100), window: Window::new(T0 - DAY, T0 - HOUR) };
    assert_eq!(short.renewal("a.example"), T0 + SignedDuration::from_secs(5));
}

#[test]
fn a_failure_is_tried_again_later_and_later_and_also_after_a_crash() {
    let (names, held) = (wanted(&[("a.example", "x")]), BTreeMap::new());
    let (mut ledger, mut now) = (Ledger::default(), T0);
    let mut waits = vec![];
    for told in [true, false, true, false, true] {
        assert_eq!(now_is(&names, &held, &ledger, now).order, ["a.example"]);
        ledger.begin("a.example", "x", true, now);
        if told {
            ledger.fail("a.example", &refusal(false, None), now);
        }
        let plan = now_is(&names, &held, &ledger, now);
        assert!(plan.order.is_empty());
        waits.push(plan.look.unwrap().duration_since(now).as_secs() / 60);
        now = plan.look.unwrap();
    }
    assert!((12..=18).contains(&waits[0]) && (24..=36).contains(&waits[1]), "{waits:?}");
    assert!(waits.is_sorted() && waits[4] >= 4 * 48, "{waits:?}");
    ledger.succeed("a.example");
    assert_eq!(ledger, Ledger { ordered: ledger.ordered.clone(), ..Ledger::default() });
}

#[test]
fn who_is_asked_too_often_says_how_long_to_wait_for_that_domain() {
    let names = wanted(&[("a.one.example", "x"), ("b.one.example", "x"), ("c.two.example", "x")]);
    let mut ledger = Ledger::default();
    ledger.begin("a.one.example", "x", true, T0);
    ledger.fail("a.one.example", &refusal(true, Some(2 * 24 * 3600)), T0);
    let plan = now_is(&names, &BTreeMap::new(), &ledger, T0);
    assert_eq!((plan.order, plan.look), (vec!["c.two.example".to_owned()], Some(T0 + DAY * 2)));
    // A renewal is no new name.
    let held = BTreeMap::from([("b.one.example".to_owned(), ninety_days(T0 - DAY * 80))]);
    assert_eq!(now_is(&names, &held, &ledger, T0).order, ["b.one.example", "c.two.example"]);
    assert_eq!(now_is(&names, &BTreeMap::new(), &ledger, T0 + DAY * 2).order.len(), 3);
    // However long it says.
    ledger.fail("a.one.example", &refusal(true, Some(u64::MAX)), T0);
    assert_eq!(now_is(&names, &BTreeMap::new(), &ledger, T0 + DAY * 7).order.len(), 3);
}

#[test]
fn a_namespace_of_many_new_names_keeps_no_other_waiting_and_no_renewal_out() {
    let mut names: Wanted = (0..1000).map(|n| (format!("n{n:04}.greedy.example"), "greedy".to_owned())).collect();
    let mut ledger = Ledger::default();
    for name in names.keys().take(50) {
        ledger.begin(name, "greedy", true, T0);
        ledger.fail(name, &refusal(false, None), T0);
    }
    names.insert("z.modest.example".into(), "modest".into());
    assert_eq!(now_is(&names, &BTreeMap::new(), &ledger, T0).order[0], "z.modest.example");
    for name in names.keys().skip(50).take(MOST_NEW - 50) {
        ledger.begin(name, "greedy", true, T0);
    }
    let plan = now_is(&names, &BTreeMap::new(), &ledger, T0);
    assert!(plan.order.is_empty(), "{plan:?}");
    assert!(plan.look.is_some_and(|at| at > T0));
    let held = BTreeMap::from([("z.modest.example".to_owned(), ninety_days(T0 - DAY * 80))]);
    assert_eq!(now_is(&names, &held, &ledger, T0).order, ["z.modest.example"]);
    assert_eq!(now_is(&names, &BTreeMap::new(), &ledger, T0 + WINDOW).order.len(), AT_ONCE);
}

#[test]
fn a_clock_that_was_wrong_holds_nothing_up() {
    let (names, mut ledger) = (wanted(&[("a.example", "x")]), Ledger::default());
    ledger.begin("a.example", "x", true, T0 + DAY * 365);
    ledger.fail("a.example", &refusal(true, Some(3600)), T0 + DAY * 365);
    assert_eq!(now_is(&names, &BTreeMap::new(), &ledger, T0).order, ["a.example"]);
}

#[derive(Clone, Debug)]
struct Case {
    names: usize,
    /// Of ten orders so many fail, and so many are too many.
    failing: u8,
    limited: u8,
    days: i32,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    (1usize..300, 0u8..=10, 0u8..=3, 1i32..100, any::<u64>()).prop_map(|(names, failing, limited, days, seed)| Case {
        names,
        failing,
        limited,
        days,
        seed,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Days of a server that follows the plan: whatever the ACME server says, it is asked no more than it takes, nothing stands
    /// still, and where nothing fails nothing ends.
    #[test]
    fn the_plan_stays_within_the_limits_and_gets_on(case in cases()) {
        let names: Wanted =
            (0..case.names).map(|n| (format!("n{n}.d{}.example", n % 3), format!("s{}", n % 5))).collect();
        let (mut held, mut ledger, mut now) = (BTreeMap::new(), Ledger::default(), T0);
        let (mut orders, mut dice) = (Vec::<(Timestamp, String)>::new(), case.seed);
        let mut roll = || {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u8::try_from((dice >> 33) % 10).unwrap()
        };
        let life = DAY * case.days;
        while now < T0 + DAY * 4 {
            ledger.prune(&names, now);
            let plan = plan(&names, &held, &ledger, &BTreeSet::new(), now);
            prop_assert!(plan.order.len() <= AT_ONCE);
            for name in &plan.order {
                orders.push((now, name.clone()));
                let span: Option<&Span> = held.get(name).filter(|span: &&Span| now < span.ends);
                prop_assert!(span.is_none_or(|span| span.renewal(name) <= now), "{name} is renewed too early");
                ledger.begin(name, &names[name], span.is_none(), now);
                match roll() {
                    n if n < case.failing => ledger.fail(name, &refusal(roll() < case.limited, Some(1800)), now),
                    _ => {
                        ledger.succeed(name);
                        held.insert(name.clone(), Span { begins: now, ends: now + life, window: None });
                    }
                }
            }
            if plan.order.is_empty() {
                let Some(look) = plan.look else {
                    prop_assert!(false, "nothing is due, ever: {:?}", ledger);
                    return Ok(());
                };
                prop_assert!(look > now, "it looks again and again");
                now = look;
            } else {
                now += SignedDuration::from_secs(20);
            }
        }
        for (i, (at, name)) in orders.iter().enumerate() {
            let after = |span: SignedDuration| orders[i..].iter().take_while(move |(t, _)| t.duration_since(*at) < span);
            prop_assert!(after(WINDOW).count() <= MOST);
            if case.failing == 10 {
                prop_assert!(after(HOUR).filter(|(_, n)| n == name).count() <= 4, "{name} fails too often");
            }
        }
        if case.failing == 0 {
            prop_assert_eq!(held.len(), case.names, "all have one");
            prop_assert!(held.values().all(|span| now < span.ends));
        }
    }
}
