//! Launches of fake workers: shell scripts, and this very program started again.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use strand_control::{
    ExitCode, FailureKind, FirstCause, LaunchError, LaunchSpec, Layout, Master, Notice, Outcome,
    RankEnv, Resume, RunDir, RunLock, RunRecord, Status, Timing, die_with_parent, launch,
};

/// Set where this program plays a launcher: the run directory.
const PLAY_LAUNCHER: &str = "TEST_PLAY_LAUNCHER";

fn spec(run_dir: &Path, world_size: usize, worker_args: &[&str]) -> LaunchSpec {
    LaunchSpec {
        worker: "/bin/sh".into(),
        worker_args: worker_args.iter().map(Into::into).collect(),
        env: Vec::new(),
        run_dir: RunDir::new(run_dir),
        name: "test".into(),
        recipe: "name: test\n".into(),
        recipe_hash: "hash".into(),
        layout: Layout { world_size, dp: world_size, tp: 1 },
        resume: Resume::Auto,
        max_restarts: 0,
        timing: Timing {
            grace: Duration::from_millis(700),
            restart_delay: Duration::from_millis(10),
            ..Timing::default()
        },
    }
}

/// Ranks that run a script, and what the launcher told.
fn run(spec: &LaunchSpec) -> (Outcome, Vec<Notice>) {
    let mut notices = Vec::new();
    let outcome = launch(spec, &mut |notice| notices.push(notice)).unwrap();
    (outcome, notices)
}

fn failure(outcome: Outcome) -> FirstCause {
    match outcome {
        Outcome::Failed(cause) => *cause,
        other => panic!("not a failure: {other:?}"),
    }
}

/// Part of a script: leaves an error behind as a rank does.
fn leave_error(kind: &str, exit_code: u8, time: &str) -> String {
    format!(
        r#"printf '{{"host":"h","rank":%d,"step":12,"kind":"{kind}","exit_code":{exit_code},"cause":["loss: not finite"],"hint":null,"backtrace":null,"time":"{time}"}}' $RANK > $STRAND_RUN_DIR/logs/attempt-$STRAND_ATTEMPT/error-000$RANK.json; exit {exit_code}"#
    )
}

#[test]
fn the_first_failure_stops_all_and_is_named_with_rank_step_and_log() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
        echo '{"event":"step","step":7,"total":9,"stage":"base","loss":1.5,"samples_per_s":2.0}'
        if [ $RANK = 2 ]; then sleep 0.3; echo "shard 3: truncated" >&2; exit 4; fi
        sleep 60"#;
    let spec = LaunchSpec { max_restarts: 3, ..spec(folder.path(), 4, &["-c", script]) };
    let started = Instant::now();
    let (outcome, notices) = run(&spec);
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(outcome.exit_code(), ExitCode::Data);
    let cause = failure(outcome);
    assert_eq!((cause.error.rank, cause.error.step), (2, Some(8)));
    assert_eq!(cause.log, folder.path().join("logs/attempt-1/rank-0002.log"));
    assert_eq!(cause.log_tail, ["shard 3: truncated"]);
    assert_eq!(cause.failed_ranks, [2]);
    assert!(cause.unresponsive_ranks.is_empty());
    assert_eq!(FirstCause::load(&spec.run_dir).unwrap(), Some(cause));
    let told: Vec<String> = notices.iter().map(ToString::to_string).collect();
    assert!(told.contains(&"[rank 2] shard 3: truncated".into()));
    let record = RunRecord::load(&spec.run_dir).unwrap().unwrap();
    assert_eq!((record.status, record.attempts.len()), (Status::Failed, 1));
    assert_eq!(record.attempts[0].exit_code, Some(ExitCode::Data));
}

#[test]
fn an_own_failure_is_the_cause_though_a_lost_peer_was_told_first() {
    let folder = tempfile::tempdir().unwrap();
    let lost = leave_error("peer_lost", 1, "2026-01-01T00:00:00.000001Z");
    let own = leave_error("primary", 6, "2026-01-01T00:00:00.000002Z");
    let script = format!(
        "if [ $RANK = 0 ]; then {lost}; fi; if [ $RANK = 1 ]; then sleep 0.1; {own}; fi; sleep 60"
    );
    let mut spec = spec(folder.path(), 3, &["-c", &script]);
    spec.timing.settle = Duration::from_secs(2);
    let (outcome, _) = run(&spec);
    let cause = failure(outcome);
    assert_eq!(cause.exit_code(), ExitCode::NonFinite);
    assert_eq!((cause.error.rank, cause.error.kind), (1, FailureKind::Primary));
    assert_eq!(cause.failed_ranks, [1, 0]);
    assert_eq!(cause.summary(), "rank 1 failed in step 12: loss: not finite");
}

#[test]
fn a_rank_deaf_to_sigterm_is_killed_with_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
        cd $STRAND_RUN_DIR
        if [ $RANK = 0 ]; then while [ ! -e child ]; do sleep 0.05; done; kill -SEGV $$; fi
        trap '' TERM; sleep 60 & echo $! > tmp; mv tmp child; wait; sleep 60"#;
    let (outcome, _) = run(&spec(folder.path(), 2, &["-c", script]));
    let cause = failure(outcome);
    assert_eq!(cause.error.rank, 0);
    assert_eq!(cause.error.exit_code, ExitCode::Signal(11));
    assert_eq!(cause.exit_code(), ExitCode::Failed);
    assert_eq!(cause.unresponsive_ranks, [1]);
    let child = fs::read_to_string(folder.path().join("child")).unwrap();
    wait_until("the rank's child is gone", || is_gone(child.trim()));
}

#[test]
fn a_failed_run_is_started_again_until_its_restarts_are_spent() {
    let folder = tempfile::tempdir().unwrap();
    let script = "echo attempt $STRAND_ATTEMPT; [ $STRAND_ATTEMPT = 3 ] || exit 1";
    let twice = LaunchSpec { max_restarts: 1, ..spec(folder.path(), 2, &["-c", script]) };
    let (outcome, notices) = run(&twice);
    assert_eq!(failure(outcome).attempt, 2);
    let is_restart = |notice: &&Notice| matches!(notice, Notice::Restarting { .. });
    assert_eq!(notices.iter().filter(is_restart).count(), 1);
    let (outcome, _) = run(&twice);
    assert_eq!(outcome, Outcome::Done);
    let record = RunRecord::load(&twice.run_dir).unwrap().unwrap();
    let numbers: Vec<u64> = record.attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!((record.status, numbers), (Status::Done, vec![1, 2, 3]));
    let log = fs::read_to_string(twice.run_dir.rank_log(3, 1)).unwrap();
    assert_eq!(log, "attempt 3\n");
    assert!(!twice.run_dir.error().exists());
}

#[test]
fn a_run_in_use_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(folder.path(), 1, &["-c", "exit 0"]);
    let _held = RunLock::acquire(&spec.run_dir).unwrap();
    let error = launch(&spec, &mut |_| {}).unwrap_err();
    assert!(matches!(error, LaunchError::Locked { .. }), "{error}");
    assert_eq!(error.exit_code(), ExitCode::Usage);
    assert!(!spec.run_dir.recipe().exists() && !spec.run_dir.record().exists());
}

#[test]
fn a_worker_that_cannot_start_is_an_error_of_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let spec =
        LaunchSpec { worker: folder.path().join("no-such-worker"), ..spec(folder.path(), 2, &[]) };
    let error = launch(&spec, &mut |_| {}).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Environment);
    let record = RunRecord::load(&spec.run_dir).unwrap().unwrap();
    assert_eq!(record.status, Status::Failed);
}

#[test]
fn a_process_left_behind_with_the_pipes_does_not_hold_up_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let script = "sleep 20 & echo $! > $STRAND_RUN_DIR/child";
    let (outcome, _) = run(&spec(folder.path(), 1, &["-c", script]));
    assert_eq!(outcome, Outcome::Done);
    assert!(started.elapsed() < Duration::from_secs(10));
    let child = fs::read_to_string(folder.path().join("child")).unwrap();
    Command::new("kill").arg(child.trim()).status().unwrap();
}

#[test]
fn ranks_that_stop_by_themselves_stop_the_run_safely() {
    let folder = tempfile::tempdir().unwrap();
    let script = r#"cd $STRAND_RUN_DIR; trap 'exit 75' TERM; touch ready-$RANK
        while [ $RANK != 1 ] || [ ! -e ready-0 ] || [ ! -e ready-2 ]; do sleep 0.05; done
        exit 75"#;
    let (outcome, _) = run(&spec(folder.path(), 3, &["-c", script]));
    assert_eq!(outcome, Outcome::Stopped);
}

#[test]
fn rank_0_takes_over_the_socket_that_the_others_connect_to() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = spec(folder.path(), 3, &["--exact", "play_rank", "--nocapture"]);
    spec.worker = std::env::current_exe().unwrap();
    spec.env = vec![("TEST_PLAY_RANK".into(), "rendezvous".into())];
    let (outcome, notices) = run(&spec);
    assert_eq!(outcome, Outcome::Done, "{notices:?}");
    let met = Notice::Line { rank: 0, text: "met 3 in all".into() };
    assert!(notices.contains(&met), "{notices:?}");
}

#[test]
fn sigterm_to_the_launcher_reaches_the_ranks_and_their_75_comes_back() {
    let script = r#"trap 'echo "checkpoint committed"; exit 75' TERM
        touch $STRAND_RUN_DIR/ready-$RANK; while :; do sleep 0.05; done"#;
    let (folder, code) = terminate(script);
    assert_eq!(code, Some(75));
    let record = RunRecord::load(&RunDir::new(folder.path())).unwrap().unwrap();
    assert_eq!(record.status, Status::Stopped);
    let log = RunDir::new(folder.path()).rank_log(1, 1);
    assert_eq!(fs::read_to_string(log).unwrap(), "checkpoint committed\n");
}

#[test]
fn sigterm_before_there_is_a_checkpoint_ends_with_128_and_the_signal() {
    let (_, code) = terminate("touch $STRAND_RUN_DIR/ready-$RANK; exec sleep 60");
    assert_eq!(code, Some(128 + 15));
}

#[test]
fn ranks_die_with_a_launcher_killed_by_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let mut launcher = play_launcher(folder.path(), "");
    let ready = |rank: usize| folder.path().join(format!("ready-{rank}"));
    wait_until("the ranks run", || (0..2).all(|rank| ready(rank).exists()));
    let pids: Vec<String> = (0..2).map(|rank| fs::read_to_string(ready(rank)).unwrap()).collect();
    assert!(pids.iter().all(|pid| !is_gone(pid)));
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    wait_until("the ranks are gone", || pids.iter().all(|pid| is_gone(pid)));
    let record = RunRecord::load(&RunDir::new(folder.path())).unwrap().unwrap();
    assert_eq!(record.status, Status::Running);
    RunLock::acquire(&RunDir::new(folder.path())).unwrap();
}

/// Starts two ranks in another launcher, and asks that one to stop once both are ready.
fn terminate(script: &str) -> (tempfile::TempDir, Option<i32>) {
    let folder = tempfile::tempdir().unwrap();
    let mut launcher = play_launcher(folder.path(), script);
    let ready = |rank| folder.path().join(format!("ready-{rank}")).exists();
    wait_until("the ranks run", || ready(0) && ready(1));
    let pid = launcher.id().to_string();
    Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    let status = launcher.wait().unwrap();
    (folder, status.code())
}

/// This program once more, as a launcher of two ranks: of `script`, or of itself where that is empty.
fn play_launcher(run_dir: &Path, script: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "play_launcher_process", "--nocapture"])
        .env(PLAY_LAUNCHER, run_dir)
        .env("TEST_SCRIPT", script)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Does nothing in a normal run of the tests.
#[test]
fn play_launcher_process() {
    let Ok(run_dir) = std::env::var(PLAY_LAUNCHER) else {
        return;
    };
    let script = std::env::var("TEST_SCRIPT").unwrap();
    let mut spec = spec(Path::new(&run_dir), 2, &["-c", &script]);
    if script.is_empty() {
        spec.worker = std::env::current_exe().unwrap();
        spec.worker_args = ["--exact", "play_rank", "--nocapture"].map(Into::into).into();
        spec.env = vec![("TEST_PLAY_RANK".into(), "sleep".into())];
    }
    let outcome = launch(&spec, &mut |_| {}).unwrap();
    std::process::exit(outcome.exit_code().code().into());
}

/// Does nothing in a normal run of the tests.
#[test]
fn play_rank() {
    let Ok(part) = std::env::var("TEST_PLAY_RANK") else {
        return;
    };
    let env = RankEnv::from_env().unwrap();
    die_with_parent(env.launcher_pid.unwrap()).unwrap();
    if part == "rendezvous" {
        return rendezvous(&env);
    }
    let ready = env.run_dir.join(format!("ready-{}", env.rank));
    fs::write(ready.with_extension("tmp"), std::process::id().to_string()).unwrap();
    fs::rename(ready.with_extension("tmp"), ready).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

fn rendezvous(env: &RankEnv) {
    let Some(listener) = env.master_listener().unwrap() else {
        let Master { addr, port } = env.master().unwrap();
        let address = (addr.as_str(), *port);
        let mut stream = TcpStream::connect(address).unwrap();
        return stream.write_all(&[env.rank as u8]).unwrap();
    };
    let mut ranks = vec![env.rank as u8];
    while ranks.len() < env.world_size {
        let mut byte = [0];
        listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
        ranks.push(byte[0]);
    }
    ranks.sort_unstable();
    assert_eq!(ranks, [0, 1, 2]);
    eprintln!("met {} in all", ranks.len());
}

/// Gone, or a zombie that nobody has waited for.
fn is_gone(pid: &str) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Err(_) => true,
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')),
    }
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
