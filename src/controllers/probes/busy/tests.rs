use serde_json::json;

use super::*;

fn instance(after: &str) -> Instance {
    serde_json::from_value(json!({
        "metadata": {"name": "alice", "namespace": "default", "uid": "u"},
        "spec": {"image": "a", "idle": {"after": after}},
        "status": {"containerID": "c"},
    }))
    .unwrap()
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn wall() -> Timestamp {
    Timestamp::UNIX_EPOCH
}

fn stats(seconds: i64, cpu_ms: u64) -> ContainerStats {
    let read_at = Timestamp::from_second(1_000_000 + seconds).unwrap();
    ContainerStats { read_at, cpu_nanos: cpu_ms * 1_000_000, memory: 0 }
}

fn cpu(found: Found) -> Vec<(Question, Found)> {
    vec![(Question::Cpu, found)]
}

fn unknown() -> Found {
    Found::Unknown("no".into())
}

#[test]
fn two_readings_far_enough_apart_and_of_one_run_make_a_rate() {
    let (busy, mut alice) = (Busy::default(), instance("10m"));
    assert!(!busy.is_primed(&alice, at(0)) && busy.too_soon(&alice, at(0)).is_zero());
    assert_eq!(busy.take(&alice, stats(0, 0), at(0)), None);
    assert!(busy.is_primed(&alice, at(60)) && !busy.is_primed(&alice, at(61)));
    assert_eq!((busy.too_soon(&alice, at(4)), busy.too_soon(&alice, at(10))), (at(6), at(0)));
    assert_eq!(busy.take(&alice, stats(60, 6_000), at(60)), Some((at(60), 100_000_000)));
    assert_eq!(busy.take(&alice, stats(181, 6_000), at(181)), None, "longer ago than two minutes says little of now");
    busy.stood_still(&alice);
    assert!(!busy.is_primed(&alice, at(182)), "the mean would be of time in which it could not work");
    busy.take(&alice, stats(182, 6_000), at(182));
    alice.status.container_id = "d".into();
    assert!(!busy.is_primed(&alice, at(182)), "another run has other counters");
    assert_eq!(busy.too_soon(&instance("3s"), at(182)), at(0), "one that sleeps sooner has less time");
}

#[test]
fn an_answer_holds_for_a_while_and_for_its_run() {
    let (busy, mut alice) = (Busy::default(), instance("10m"));
    assert_eq!(busy.seen(&alice, at(0)), BusySeen::default());
    assert_eq!(busy.settle(&alice, &cpu(Found::Busy("37%".into())), at(0), wall()), Said::Busy);
    assert_eq!(busy.seen(&alice, at(20)), BusySeen { answer: Answer::Busy, again: at(40) });
    assert_eq!(busy.seen(&alice, at(60)), BusySeen::default(), "asked again");
    assert_eq!(busy.signs(&alice).len(), 1);
    assert_eq!(busy.settle(&alice, &cpu(Found::Idle("1%".into())), at(60), wall()), Said::Idle);
    assert_eq!(busy.seen(&alice, at(60)), BusySeen { answer: Answer::Idle, again: HOLDS });
    let quick = instance("5s");
    busy.settle(&quick, &cpu(Found::Busy(String::new())), at(60), wall());
    assert_eq!(busy.seen(&quick, at(60)).again, at(5), "no later than it would sleep anyway");
    let mut brief = instance("10m");
    brief.spec.idle.freeze_after = Some("3s".parse().unwrap());
    busy.settle(&brief, &cpu(Found::Idle(String::new())), at(60), wall());
    assert_eq!(busy.seen(&brief, at(60)).again, at(3), "a use after it and a rest after that are longer");
    alice.status.container_id = "d".into();
    assert_eq!((busy.seen(&alice, at(61)).answer, busy.signs(&alice)), (Answer::Unknown, vec![]));
    busy.forget(&alice.key());
    assert!(busy.known().is_empty());
}

#[test]
fn busy_by_any_measure_is_busy_and_what_is_not_known_is_not_idle() {
    let idle = || Found::Idle(String::new());
    for (cpu, http, said) in [
        (Found::Busy(String::new()), unknown(), Said::Busy),
        (unknown(), Found::Busy(String::new()), Said::Busy),
        (idle(), unknown(), Said::Unknown { first: true, why: "busyCheck: no".into() }),
        (unknown(), idle(), Said::Unknown { first: true, why: "busyCpu: no".into() }),
        (Found::Pending(at(10)), idle(), Said::Pending),
        (idle(), idle(), Said::Idle),
    ] {
        assert_eq!(combine(&[(Question::Cpu, cpu), (Question::Http, http)]), said);
    }
    let (busy, alice) = (Busy::default(), instance("10m"));
    busy.settle(&alice, &cpu(Found::Pending(at(7))), at(0), wall());
    assert_eq!(busy.seen(&alice, at(0)), BusySeen { answer: Answer::Unknown, again: at(7) });
}

#[test]
fn what_cannot_be_found_out_is_borne_with_for_ten_minutes_and_told_twice() {
    let (busy, alice) = (Busy::default(), instance("1h"));
    let ask = |second| busy.settle(&alice, &cpu(unknown()), at(second), wall());
    let why = || "busyCpu: no".to_owned();
    assert_eq!(ask(0), Said::Unknown { first: true, why: why() });
    for second in (30..600).step_by(30) {
        assert_eq!(ask(second), Said::Unknown { first: false, why: why() }, "{second}");
        assert_eq!(busy.seen(&alice, at(second)), BusySeen { answer: Answer::Silent, again: RETRY });
    }
    assert_eq!(ask(600), Said::GivenUp(why()));
    assert_eq!(busy.seen(&alice, at(600)).answer, Answer::Idle);
    assert_eq!(ask(4000), Said::Unknown { first: true, why: why() }, "of another rest");
    busy.stood_still(&alice);
    assert_eq!(ask(4010), Said::Unknown { first: true, why: why() }, "it was at rest in between");
    busy.settle(&alice, &cpu(Found::Idle(String::new())), at(4030), wall());
    assert_eq!(ask(4060), Said::Unknown { first: true, why: why() }, "it was known in between");
}
