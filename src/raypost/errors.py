"""Every exception class of the product, as one tree, grouped by who must act.

RaypostError                  code: stable, documented; `what` happened, its `meaning` for the images, what to `do`
├── UsageError                wrong use: a person typed or configured something that cannot be right (exit code 2)
├── NotNowError               right, but not at this moment (exit code 3)
├── ForbiddenError            a person wanted what no role of the person allows (exit code 2)
├── UnsafeSettingsError       the site does not start before its settings and files are safe
├── TransientError            the machine retries
│   ├── UnreachableError      a peer did not answer
│   └── UnknownOutcomeError   the peer may or may not have taken it: it is sent again, the receiver drops the double
├── RefusedError              a peer said no for good; a person must look
│   └── LoginRefusedError     wrong account or password
├── BadInputError             bytes from outside that we cannot use: quarantine, go on
├── IntegrityError            bytes are not what they were said to be: ask again, then a person
├── SecurityError             signature, certificate, decryption: quarantine, never retried
├── RemoteProtocolError       the partner's message breaks the protocol: quarantine, go on
└── LocalProtocolError        our bug: the job fails and is tried again
"""

from __future__ import annotations


class RaypostError(Exception):
    """Base of every error a person may see.

    Args:
        what: What happened, one sentence, without patient data.
        meaning: What it means for the patient's images; the class has a default.
        do: What the reader should do; the class has a default.
    """

    code = "RP-000"
    meaning = "Nothing is known about the consequences."
    do = "Look into the log of this site."
    exit_code = 1

    def __init__(self, what: str, *, meaning: str | None = None, do: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.meaning = meaning or type(self).meaning
        self.do = do or type(self).do

    def as_json(self) -> dict[str, str]:
        """Return the one JSON shape of an error: code, what, meaning, do."""
        return {"code": self.code, "what": self.what, "meaning": self.meaning, "do": self.do}


class UsageError(RaypostError):
    """A person typed or configured something that cannot be right."""

    code = "RP-001"
    meaning = "Nothing was changed and nothing was sent."
    do = "Correct it and try again; --help shows an example."
    exit_code = 2


class NotNowError(RaypostError):
    """The request is right, but not at this moment."""

    code = "RP-002"
    meaning = "Nothing was changed and nothing was sent."
    do = "Try again later."
    exit_code = 3


class ForbiddenError(RaypostError):
    """A person wanted to do what none of the person's roles allows.

    Args:
        name: Login name of the person, as it was given.
        right: What the person wanted to do, in the words of the table of rights.
        what: What happened.
        do: What the reader should do.
    """

    code = "RP-003"
    meaning = "Nothing was changed and nothing was sent; the attempt is written down."
    do = "Let somebody do it who may, or have an administrator give the role: `raypost user role`."
    exit_code = 2

    def __init__(self, name: str, right: str, what: str, *, do: str | None = None) -> None:
        super().__init__(what, do=do)
        self.name = name
        self.right = right


class UnsafeSettingsError(RaypostError):
    """Settings or files of the site would lay it open to others."""

    code = "RP-004"
    meaning = "The site did not start: nothing is received, sent or fetched. What is here is as it was."
    do = "Do what is said at each of them, then start again; `raypost check` shows them, too."


class TransientError(RaypostError):
    """Something failed that usually passes; the machine retries."""

    code = "RP-100"
    meaning = "The images are safe here and are sent again by themselves."
    do = "Nothing, unless it lasts."


class UnreachableError(TransientError):
    """A peer did not answer: refused connection, time-out, broken TLS."""

    code = "RP-101"
    do = "If it lasts: look at the network between, and whether the server runs."


class UnknownOutcomeError(TransientError):
    """The last byte went out and no answer came; the peer may have the mail."""

    code = "RP-102"
    do = "Nothing: the mail is sent again and the receiver drops the double."


class RefusedError(RaypostError):
    """A peer said no for good.

    Args:
        what: What was refused.
        peer_code: The peer's own code, such as an SMTP reply code or a DIMSE status.
        peer_text: The peer's own words.
    """

    code = "RP-200"
    meaning = "This will not go through by repeating it; the images are safe here."
    do = "Read the peer's words, mend the cause, then `raypost transfer resend`."

    def __init__(
        self,
        what: str,
        *,
        peer_code: int | None = None,
        peer_text: str = "",
        meaning: str | None = None,
        do: str | None = None,
    ) -> None:
        super().__init__(what, meaning=meaning, do=do)
        self.peer_code = peer_code
        self.peer_text = peer_text


class LoginRefusedError(RefusedError):
    """The mail server refuses our account or password."""

    code = "RP-201"
    meaning = "No mail leaves or enters this site until it is mended; images received meanwhile are kept and sent then."
    do = "Check the account and the password file in raypost.toml with the relay's administrator."


class BadInputError(RaypostError):
    """Bytes from outside that cannot be used: not DICOM, truncated, hostile, too large."""

    code = "RP-300"
    meaning = "This one object is not shown and not sent; it is kept in quarantine, everything else goes on."
    do = "`raypost quarantine list` shows it; ask whoever sent it to send it again."


class SandboxCrashError(BadInputError):
    """The worker that parsed the bytes crashed or ran into its memory or time limit."""

    code = "RP-301"


class IntegrityError(RaypostError):
    """Bytes are not what they were said to be."""

    code = "RP-400"
    meaning = "The damaged copy is not shown and not released; the sender is asked for it again."
    do = "Nothing, unless it comes again: then check the disk of this machine."


class SecurityError(RaypostError):
    """A signature, certificate or decryption is not in order."""

    code = "RP-500"
    meaning = "The mail is in quarantine; nothing of it is shown and nobody is answered."
    do = "`raypost quarantine list`; telephone the partner before anything is released."


class RemoteProtocolError(RaypostError):
    """A verified partner's message breaks the transfer protocol."""

    code = "RP-600"
    meaning = "The mail is in quarantine; other mails of the transfer go on."
    do = "Compare the versions of both sites; the partner can send it again."


class UnknownMessageError(RemoteProtocolError):
    """A verified partner's message is of a kind or version that came after this program."""

    code = "RP-601"
    meaning = "It was noted and nothing else was done; images come by messages that this version knows."
    do = "Install a newer version of Raypost when it suits you."


class LocalProtocolError(RaypostError):
    """A state machine was driven in a way its table does not allow: a bug of ours."""

    code = "RP-900"
    meaning = "This job failed and is tried again; rows and files are as before."
    do = "Report it with the log; nothing needs to be sent again by hand."


def all_error_classes() -> list[type[RaypostError]]:
    """Return every class of the tree, in the order of its codes; the reference page is made from it."""
    found: list[type[RaypostError]] = []
    waiting: list[type[RaypostError]] = [RaypostError]
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting.extend(one.__subclasses__())
    return sorted(found, key=lambda cls: cls.code)
