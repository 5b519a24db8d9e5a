//! One capture from the first call to the last frame: what the agent sends, what the command does and what
//! the user wants, in one loop.

use std::error::Error;
use std::time::Duration;

use profiler_proto::pb::capture_response::Part;
use profiler_proto::pb::{self, Phase};
use profiler_proto::{CaptureAssembler, CaptureSpec, Event, decode_frame};
use tonic::{Code, Response, Streaming};

use crate::capture_file::CaptureFile;
use crate::client::Agent;
use crate::error::{CliError, sentence};
use crate::interrupts::{Interrupt, Interrupts};
use crate::progress::Progress;
use crate::text;
use crate::workload::Workload;

/// How long the agent may take to answer a call to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What a call is named in error messages.
const CALL: &str = "the capture";

/// A running capture.
pub(crate) struct Capturing<'a> {
    agent: &'a mut Agent,
    interrupts: &'a mut Interrupts,
    progress: Progress,
    workload: Option<&'a mut Workload>,
    file: Option<CaptureFile>,
    assembler: CaptureAssembler,
    session: Option<u64>,
    stop_wanted: bool,
    stop_sent: bool,
    interrupted: bool,
    command: Option<Result<i32, CliError>>,
}

/// All that came.
pub(crate) struct Received {
    /// To be finished into a capture.
    pub(crate) assembler: CaptureAssembler,
    /// The frames, where they were to be kept.
    pub(crate) file: Option<CaptureFile>,
    /// The command's exit code.
    pub(crate) command: Option<i32>,
}

impl<'a> Capturing<'a> {
    /// Prepares a capture; nothing is sent yet.
    pub(crate) fn new(
        agent: &'a mut Agent,
        interrupts: &'a mut Interrupts,
        workload: Option<&'a mut Workload>,
        file: Option<CaptureFile>,
    ) -> Self {
        Self {
            agent,
            interrupts,
            progress: Progress::new(workload.is_none()),
            workload,
            file,
            assembler: CaptureAssembler::new(),
            session: None,
            stop_wanted: false,
            stop_sent: false,
            interrupted: false,
            command: None,
        }
    }

    /// Runs it to its end, and the command to its own.
    pub(crate) async fn run(mut self, spec: &CaptureSpec) -> Result<Received, CliError> {
        let outcome = self.receive(spec).await;
        drop(std::mem::replace(&mut self.progress, Progress::new(false)));
        if outcome.is_err() {
            self.tell_of_running_command();
        }
        // Also where the capture failed: the command must not be left behind by its parent.
        if !matches!(outcome, Err(CliError::Aborted)) {
            self.await_command().await?;
        }
        outcome?;
        let command = self.command.take().transpose()?;
        Ok(Received {
            assembler: self.assembler,
            file: self.file,
            command,
        })
    }

    async fn receive(&mut self, spec: &CaptureSpec) -> Result<(), CliError> {
        let mut stream = self.open(spec).await?;
        loop {
            tokio::select! {
                part = stream.message() => {
                    match part.map_err(|status| self.agent.error(CALL, &status))? {
                        Some(response) => self.part(response.part)?,
                        None => return Ok(()),
                    }
                }
                code = command_end(&mut self.workload), if self.command_is_running() => {
                    self.command = Some(code);
                    self.stop_wanted = true;
                }
                interrupt = self.interrupts.next() => self.interrupt(interrupt)?,
            }
            self.stop_if_wanted().await?;
        }
    }

    async fn open(
        &mut self,
        spec: &CaptureSpec,
    ) -> Result<Streaming<pb::CaptureResponse>, CliError> {
        let request = pb::CaptureRequest {
            spec: Some(spec.into()),
        };
        let mut client = self.agent.client.clone();
        let mut call = std::pin::pin!(client.capture(request));
        loop {
            tokio::select! {
                answer = &mut call => {
                    let answer = answer.map_err(|status| self.agent.error(CALL, &status));
                    return answer.map(Response::into_inner);
                }
                interrupt = self.interrupts.next() => self.interrupt(interrupt)?,
            }
        }
    }

    fn part(&mut self, part: Option<Part>) -> Result<(), CliError> {
        match part {
            Some(Part::Progress(progress)) => self.progress(&progress),
            Some(Part::Frame(frame)) => self.frame(&frame),
            // Of a newer agent, and nothing that belongs to the capture.
            None => Ok(()),
        }
    }

    fn progress(&mut self, progress: &pb::Progress) -> Result<(), CliError> {
        self.session = Some(progress.session);
        self.progress.update(progress);
        if progress.phase() != Phase::Armed {
            return Ok(());
        }
        for event in progress.events.iter().filter(|event| !event.available) {
            let name = Event::from_wire(event.event).map_or("an event", Event::name);
            let reason = text::clean(&event.reason);
            self.progress
                .note(&format!("{name} is not measured: {reason}"));
        }
        self.begin_command()
    }

    fn begin_command(&mut self) -> Result<(), CliError> {
        match &mut self.workload {
            Some(workload) if !workload.has_begun() => workload.begin(),
            _ => Ok(()),
        }
    }

    fn frame(&mut self, frame: &[u8]) -> Result<(), CliError> {
        let broken = |error: &(dyn Error + 'static)| {
            let reason = sentence(error);
            CliError::Failed(format!(
                "the agent sent a capture that is not valid: {reason}"
            ))
        };
        let chunk = decode_frame(frame).map_err(|error| broken(&error))?;
        self.assembler.push(chunk).map_err(|error| broken(&error))?;
        match &mut self.file {
            Some(file) => file.write_frame(frame),
            None => Ok(()),
        }
    }

    fn interrupt(&mut self, interrupt: Interrupt) -> Result<(), CliError> {
        if self.interrupted {
            return Err(CliError::Aborted);
        }
        self.interrupted = true;
        self.stop_wanted = true;
        match &self.workload {
            Some(workload) if interrupt == Interrupt::Terminate => workload.terminate(),
            _ => Ok(()),
        }
    }

    async fn stop_if_wanted(&mut self) -> Result<(), CliError> {
        let Some(session) = self.session.filter(|_| self.stop_wanted && !self.stop_sent) else {
            return Ok(());
        };
        self.stop_sent = true;
        let mut client = self.agent.client.clone();
        let call = client.stop(pb::StopRequest { session });
        match tokio::time::timeout(STOP_TIMEOUT, call).await {
            Ok(Ok(_)) => Ok(()),
            // It has come to its end in the meantime.
            Ok(Err(status)) if status.code() == Code::NotFound => Ok(()),
            Ok(Err(status)) => Err(self.agent.error("the end of the capture", &status)),
            Err(_) => Err(CliError::Failed(format!(
                "{} does not answer the call to end the capture",
                self.agent.name
            ))),
        }
    }

    /// Says what becomes of the command when the capture has failed. Why it has is said at the end.
    fn tell_of_running_command(&self) {
        if let Some(workload) = &self.workload
            && self.command_is_running()
        {
            crate::stdio::tell(format_args!(
                "profiler: the capture has failed; the command runs on as process {}, unprofiled",
                workload.raw_pid()
            ));
        }
    }

    fn command_is_running(&self) -> bool {
        self.command.is_none() && self.workload.as_ref().is_some_and(|w| w.has_begun())
    }

    async fn await_command(&mut self) -> Result<(), CliError> {
        while self.command_is_running() {
            tokio::select! {
                code = command_end(&mut self.workload) => self.command = Some(code),
                interrupt = self.interrupts.next() => self.interrupt(interrupt)?,
            }
        }
        Ok(())
    }
}

async fn command_end(workload: &mut Option<&mut Workload>) -> Result<i32, CliError> {
    match workload {
        Some(workload) => workload.ended().await,
        None => std::future::pending().await,
    }
}
