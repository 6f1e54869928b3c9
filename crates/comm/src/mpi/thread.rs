//! The one thread of the process that talks to MPI.
//!
//! It initialises MPI, so that MPI needs no support for threads. It starts collectives in the order in which they are
//! asked for, keeps their tensors for as long as MPI may write to them, whether anybody still waits or not, and asks MPI
//! again and again, which is what makes collectives go on while the rank computes. Once nobody can ask for more, it
//! finalises MPI.

use std::collections::BTreeSet;
use std::ffi::c_int;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ::mpi::Threading;
use ::mpi::environment::Universe;
use ::mpi::topology::{Color, SimpleCommunicator};
use ::mpi::traits::Communicator;

use super::calls::{LONGEST, Place, Requests, Work, hear, return_errors, say_here};
use super::reduce::HalfOps;
use crate::backend::BackendError;

/// How long collectives that nobody waits for any more may hold up the end of the process.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the thread is asked for.
enum Command {
    Divide { of: usize, color: c_int, key: c_int, reply: Sender<Result<Ranks, BackendError>> },
    Start { on: Ranks, work: Work, landing: Arc<Landing> },
    Roll(Roll),
}

/// A communicator of the thread.
#[derive(Debug, Clone, Copy)]
pub struct Ranks {
    /// Longer tensors go in pieces.
    pub longest: usize,
    /// Its number.
    pub number: usize,
    /// This rank in it.
    pub rank: usize,
    /// Its ranks.
    pub size: usize,
}

/// The thread's other end. MPI is finalised when it is dropped.
pub struct MpiThread {
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl MpiThread {
    /// Initialises MPI. Returns the communicator of all ranks, too.
    ///
    /// # Errors
    /// MPI was initialised before, in this process, or cannot be.
    pub fn start() -> Result<(MpiThread, Ranks), BackendError> {
        let (commands, receiver) = mpsc::channel();
        let (reply, answer) = mpsc::channel();
        let run = move || match Runner::new() {
            Ok(mut runner) => {
                let _ = reply.send(Ok(runner.ranks(0)));
                runner.run(&receiver);
                runner.end();
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        };
        let thread = thread::Builder::new().name("mpi".into()).spawn(run).map_err(failure)?;
        let world = answer.recv().map_err(failure)??;
        Ok((MpiThread { commands: Some(commands), thread: Some(thread) }, world))
    }

    /// Divides a communicator: ranks of the same `color` go together, in the order of `key`. All of its ranks call this.
    ///
    /// # Errors
    /// MPI's own.
    pub fn divide(&self, of: Ranks, color: usize, key: usize) -> Result<Ranks, BackendError> {
        let (reply, answer) = mpsc::channel();
        let (color, key) = (color as c_int, key as c_int);
        self.send(Command::Divide { of: of.number, color, key, reply })?;
        let part = answer.recv().map_err(failure)??;
        Ok(Ranks { longest: of.longest, ..part })
    }

    /// Starts a collective on a communicator.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn collective(&self, on: Ranks, work: Work) -> Result<Arc<Landing>, BackendError> {
        let landing = Arc::new(Landing::default());
        let command = Command::Start { on, work, landing: Arc::clone(&landing) };
        self.send(command)?;
        Ok(landing)
    }

    /// Tells the others of a communicator that this rank has come to collective `sequence`, listens for `patience`, and
    /// returns those that have not come as far. None where MPI fails.
    pub fn roll_call(&self, on: Ranks, sequence: u64, patience: Duration) -> Vec<usize> {
        let (reply, answer) = mpsc::channel();
        let (until, heard) = (Instant::now() + patience, BTreeSet::from([on.rank]));
        let sent = self.send(Command::Roll(Roll { on, sequence, until, heard, reply }));
        sent.ok().and_then(|()| answer.recv().ok()).unwrap_or_default()
    }

    fn send(&self, command: Command) -> Result<(), BackendError> {
        match &self.commands {
            Some(commands) => commands.send(command).map_err(failure),
            None => Err(BackendError::PeerLeft),
        }
    }
}

impl Drop for MpiThread {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of MPI has panicked");
        }
    }
}

/// How a collective ended, once it has.
#[derive(Default)]
pub struct Landing {
    outcome: Mutex<Option<Result<(), BackendError>>>,
    changed: Condvar,
}

impl Landing {
    /// Waits for the end.
    ///
    /// # Errors
    /// MPI's own, or `timeout` has passed.
    pub fn wait(&self, timeout: Duration) -> Result<(), BackendError> {
        let outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(outcome, timeout, |outcome| outcome.is_none());
        let (mut outcome, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let late = BackendError::Timeout { seconds: timeout.as_secs_f64() };
        outcome.take().unwrap_or(Err(late))
    }

    fn end(&self, outcome: Result<(), BackendError>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.changed.notify_all();
    }
}

/// Which ranks have come to a collective that has failed.
struct Roll {
    on: Ranks,
    sequence: u64,
    until: Instant,
    heard: BTreeSet<usize>,
    reply: Sender<Vec<usize>>,
}

impl Roll {
    /// Listens once; true at the end.
    fn listen(&mut self, comm: &SimpleCommunicator) -> bool {
        while let Ok(Some((rank, sequence))) = hear(comm) {
            // An older word is of a collective that has failed before.
            if sequence >= self.sequence {
                self.heard.insert(rank);
            }
        }
        let is_over = self.heard.len() == self.on.size || Instant::now() >= self.until;
        if is_over {
            let missing = (0..self.on.size).filter(|rank| !self.heard.contains(rank)).collect();
            // Whoever asked may have gone.
            let _ = self.reply.send(missing);
        }
        is_over
    }
}

/// A collective under way, with all that MPI may write to.
struct Flight {
    requests: Requests,
    landing: Arc<Landing>,
    _work: Work,
}

/// The life of the thread.
struct Runner {
    universe: Universe,
    comms: Vec<SimpleCommunicator>,
    half_ops: HalfOps,
    flights: Vec<Flight>,
    /// Words to other ranks that MPI may still read.
    words: Vec<(Requests, Box<u64>)>,
    rolls: Vec<Roll>,
}

impl Runner {
    fn new() -> Result<Runner, BackendError> {
        let begun = ::mpi::initialize_with_threading(Threading::Funneled);
        let (universe, _) = begun.ok_or_else(|| {
            failure("it was initialised before, and can be only once in a process")
        })?;
        let world = universe.world();
        return_errors(&world)?;
        Ok(Runner {
            universe,
            comms: vec![world],
            half_ops: HalfOps::new()?,
            flights: Vec::new(),
            words: Vec::new(),
            rolls: Vec::new(),
        })
    }

    fn ranks(&self, number: usize) -> Ranks {
        let comm = &self.comms[number];
        let (rank, size) = (comm.rank() as usize, comm.size() as usize);
        Ranks { longest: LONGEST, number, rank, size }
    }

    /// Works until nobody can ask for anything any more.
    fn run(&mut self, commands: &Receiver<Command>) {
        let mut pause = Pause::default();
        loop {
            let next = match self.is_idle() {
                true => commands.recv().map_err(|_| TryRecvError::Disconnected),
                false => commands.try_recv(),
            };
            match next {
                Ok(command) => self.carry_out(command),
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) if self.look() => pause = Pause::default(),
                Err(TryRecvError::Empty) => pause.rest(),
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.flights.is_empty() && self.rolls.is_empty() && self.words.is_empty()
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Divide { of, color, key, reply } => {
                let _ = reply.send(self.divide(of, color, key));
            }
            Command::Start { on, work, landing } => {
                let (comm, longest) = (&self.comms[on.number], on.longest);
                let place = Place { comm, half_ops: &self.half_ops, longest };
                match place.start(&work) {
                    Ok(requests) => self.flights.push(Flight { requests, landing, _work: work }),
                    Err(error) => landing.end(Err(error)),
                }
            }
            Command::Roll(roll) => {
                let word = Box::new(roll.sequence);
                match say_here(&self.comms[roll.on.number], &word) {
                    Ok(requests) => self.words.push((requests, word)),
                    Err(error) => tracing::warn!("{error}"),
                }
                self.rolls.push(roll);
            }
        }
    }

    fn divide(&mut self, of: usize, color: c_int, key: c_int) -> Result<Ranks, BackendError> {
        let part = self.comms[of].split_by_color_with_key(Color::with_value(color), key);
        let part = part.ok_or_else(|| failure("this rank is in no part"))?;
        return_errors(&part)?;
        self.comms.push(part);
        Ok(self.ranks(self.comms.len() - 1))
    }

    /// Asks MPI once how far everything is. True where something has ended.
    fn look(&mut self) -> bool {
        let before = self.flights.len() + self.rolls.len() + self.words.len();
        self.flights.retain_mut(|flight| match flight.requests.are_done() {
            Ok(false) => true,
            Ok(true) => {
                flight.landing.end(Ok(()));
                false
            }
            Err(error) => {
                flight.landing.end(Err(error));
                false
            }
        });
        self.words.retain_mut(|(requests, _)| matches!(requests.are_done(), Ok(false)));
        let comms = &self.comms;
        self.rolls.retain_mut(|roll| !roll.listen(&comms[roll.on.number]));
        before > self.flights.len() + self.rolls.len() + self.words.len()
    }

    /// Finalises MPI. Where collectives have not ended, because a rank did not come to them, MPI would wait for ever:
    /// then the process ends without, which mpirun takes for the failure that it is.
    fn end(mut self) {
        let until = Instant::now() + PATIENCE;
        let mut pause = Pause::default();
        while !self.is_idle() && Instant::now() < until {
            self.look();
            pause.rest();
        }
        let under_way = self.flights.len();
        // Communicators are freed by all ranks together: the end of MPI frees them all.
        std::mem::forget(std::mem::take(&mut self.comms));
        if under_way == 0 {
            return drop(self.universe);
        }
        tracing::error!("MPI is not finalised: {under_way} collectives have not ended");
        std::mem::forget((self.universe, self.flights, self.words));
    }
}

/// Rests that grow: a short collective ends at once, and ranks that share a core let each other work.
#[derive(Default)]
struct Pause(u32);

impl Pause {
    const YIELDS: u32 = 50;
    const LONGEST: Duration = Duration::from_micros(200);

    fn rest(&mut self) {
        self.0 = self.0.saturating_add(1);
        match self.0.checked_sub(Self::YIELDS) {
            None | Some(0) => thread::yield_now(),
            Some(turn) => thread::sleep(Self::LONGEST.min(Duration::from_micros(10) * turn)),
        }
    }
}

fn failure(reason: impl std::fmt::Display) -> BackendError {
    BackendError::Native { library: "MPI", call: "thread", reason: reason.to_string() }
}
