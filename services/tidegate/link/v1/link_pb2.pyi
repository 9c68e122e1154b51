from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Refusal(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFUSAL_NONE: _ClassVar[Refusal]
    REFUSAL_VERSION: _ClassVar[Refusal]
    REFUSAL_STOPPING: _ClassVar[Refusal]
    REFUSAL_PROTOCOL: _ClassVar[Refusal]

class Failure(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_NONE: _ClassVar[Failure]
    FAILURE_FENCED: _ClassVar[Failure]
    FAILURE_UNAVAILABLE: _ClassVar[Failure]
    FAILURE_INTERNAL: _ClassVar[Failure]
    FAILURE_UNSUPPORTED: _ClassVar[Failure]
    FAILURE_OWNED: _ClassVar[Failure]
    FAILURE_QUOTA: _ClassVar[Failure]
REFUSAL_NONE: Refusal
REFUSAL_VERSION: Refusal
REFUSAL_STOPPING: Refusal
REFUSAL_PROTOCOL: Refusal
FAILURE_NONE: Failure
FAILURE_FENCED: Failure
FAILURE_UNAVAILABLE: Failure
FAILURE_INTERNAL: Failure
FAILURE_UNSUPPORTED: Failure
FAILURE_OWNED: Failure
FAILURE_QUOTA: Failure

class EdgeFrame(_message.Message):
    __slots__ = ("hello", "operations", "shared_done", "frames_taken")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    SHARED_DONE_FIELD_NUMBER: _ClassVar[int]
    FRAMES_TAKEN_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    operations: _containers.RepeatedCompositeFieldContainer[EdgeOperation]
    shared_done: _containers.RepeatedScalarFieldContainer[int]
    frames_taken: int
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., operations: _Optional[_Iterable[_Union[EdgeOperation, _Mapping]]] = ..., shared_done: _Optional[_Iterable[int]] = ..., frames_taken: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("oldest_version", "newest_version", "edge_id", "name")
    OLDEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    NEWEST_VERSION_FIELD_NUMBER: _ClassVar[int]
    EDGE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    oldest_version: int
    newest_version: int
    edge_id: str
    name: str
    def __init__(self, oldest_version: _Optional[int] = ..., newest_version: _Optional[int] = ..., edge_id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class EdgeOperation(_message.Message):
    __slots__ = ("publish", "request", "interest", "hold", "leave_groups", "redispatch", "complete", "synced", "echo", "shared_member", "shared_returned", "figures", "fenced", "record", "ban", "records")
    PUBLISH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    INTEREST_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    LEAVE_GROUPS_FIELD_NUMBER: _ClassVar[int]
    REDISPATCH_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    SHARED_MEMBER_FIELD_NUMBER: _ClassVar[int]
    SHARED_RETURNED_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    FENCED_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    BAN_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    publish: Publish
    request: Request
    interest: Interest
    hold: Hold
    leave_groups: LeaveGroups
    redispatch: Redispatch
    complete: Complete
    synced: Synced
    echo: Echo
    shared_member: SharedMember
    shared_returned: SharedReturned
    figures: Figures
    fenced: Fenced
    record: Record
    ban: BanClient
    records: bytes
    def __init__(self, publish: _Optional[_Union[Publish, _Mapping]] = ..., request: _Optional[_Union[Request, _Mapping]] = ..., interest: _Optional[_Union[Interest, _Mapping]] = ..., hold: _Optional[_Union[Hold, _Mapping]] = ..., leave_groups: _Optional[_Union[LeaveGroups, _Mapping]] = ..., redispatch: _Optional[_Union[Redispatch, _Mapping]] = ..., complete: _Optional[_Union[Complete, _Mapping]] = ..., synced: _Optional[_Union[Synced, _Mapping]] = ..., echo: _Optional[_Union[Echo, _Mapping]] = ..., shared_member: _Optional[_Union[SharedMember, _Mapping]] = ..., shared_returned: _Optional[_Union[SharedReturned, _Mapping]] = ..., figures: _Optional[_Union[Figures, _Mapping]] = ..., fenced: _Optional[_Union[Fenced, _Mapping]] = ..., record: _Optional[_Union[Record, _Mapping]] = ..., ban: _Optional[_Union[BanClient, _Mapping]] = ..., records: _Optional[bytes] = ...) -> None: ...

class BanClient(_message.Message):
    __slots__ = ("ban",)
    BAN_FIELD_NUMBER: _ClassVar[int]
    ban: bytes
    def __init__(self, ban: _Optional[bytes] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ("client_ids", "events")
    CLIENT_IDS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    client_ids: _containers.RepeatedScalarFieldContainer[str]
    events: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, client_ids: _Optional[_Iterable[str]] = ..., events: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("topic", "payload", "flags", "properties", "expires_at_ms", "subscription_identifiers", "trace")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_IDENTIFIERS_FIELD_NUMBER: _ClassVar[int]
    TRACE_FIELD_NUMBER: _ClassVar[int]
    topic: str
    payload: bytes
    flags: int
    properties: bytes
    expires_at_ms: int
    subscription_identifiers: _containers.RepeatedScalarFieldContainer[int]
    trace: bytes
    def __init__(self, topic: _Optional[str] = ..., payload: _Optional[bytes] = ..., flags: _Optional[int] = ..., properties: _Optional[bytes] = ..., expires_at_ms: _Optional[int] = ..., subscription_identifiers: _Optional[_Iterable[int]] = ..., trace: _Optional[bytes] = ...) -> None: ...

class Publish(_message.Message):
    __slots__ = ("message", "client_id", "id", "epoch", "identity", "receipt", "packet_id", "dup")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    PACKET_ID_FIELD_NUMBER: _ClassVar[int]
    DUP_FIELD_NUMBER: _ClassVar[int]
    message: Message
    client_id: str
    id: int
    epoch: int
    identity: str
    receipt: int
    packet_id: int
    dup: bool
    def __init__(self, message: _Optional[_Union[Message, _Mapping]] = ..., client_id: _Optional[str] = ..., id: _Optional[int] = ..., epoch: _Optional[int] = ..., identity: _Optional[str] = ..., receipt: _Optional[int] = ..., packet_id: _Optional[int] = ..., dup: _Optional[bool] = ...) -> None: ...

class Interest(_message.Message):
    __slots__ = ("added", "removed", "only_qos0")
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    ONLY_QOS0_FIELD_NUMBER: _ClassVar[int]
    added: _containers.RepeatedScalarFieldContainer[str]
    removed: _containers.RepeatedScalarFieldContainer[str]
    only_qos0: bool
    def __init__(self, added: _Optional[_Iterable[str]] = ..., removed: _Optional[_Iterable[str]] = ..., only_qos0: _Optional[bool] = ...) -> None: ...

class Hold(_message.Message):
    __slots__ = ("client_id", "epoch", "incarnation", "ended")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    epoch: int
    incarnation: int
    ended: bool
    def __init__(self, client_id: _Optional[str] = ..., epoch: _Optional[int] = ..., incarnation: _Optional[int] = ..., ended: _Optional[bool] = ...) -> None: ...

class Options(_message.Message):
    __slots__ = ("flags", "subscription_identifier")
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_IDENTIFIER_FIELD_NUMBER: _ClassVar[int]
    flags: int
    subscription_identifier: int
    def __init__(self, flags: _Optional[int] = ..., subscription_identifier: _Optional[int] = ...) -> None: ...

class Subscription(_message.Message):
    __slots__ = ("topic_filter", "options")
    TOPIC_FILTER_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    topic_filter: str
    options: Options
    def __init__(self, topic_filter: _Optional[str] = ..., options: _Optional[_Union[Options, _Mapping]] = ...) -> None: ...

class SharedMember(_message.Message):
    __slots__ = ("client_id", "epoch", "subscriptions")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    epoch: int
    subscriptions: _containers.RepeatedCompositeFieldContainer[Subscription]
    def __init__(self, client_id: _Optional[str] = ..., epoch: _Optional[int] = ..., subscriptions: _Optional[_Iterable[_Union[Subscription, _Mapping]]] = ...) -> None: ...

class LeaveGroups(_message.Message):
    __slots__ = ("client_id", "epoch", "topic_filters")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FILTERS_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    epoch: int
    topic_filters: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, client_id: _Optional[str] = ..., epoch: _Optional[int] = ..., topic_filters: _Optional[_Iterable[str]] = ...) -> None: ...

class Redispatch(_message.Message):
    __slots__ = ("topic_filter", "message")
    TOPIC_FILTER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    topic_filter: str
    message: Message
    def __init__(self, topic_filter: _Optional[str] = ..., message: _Optional[_Union[Message, _Mapping]] = ...) -> None: ...

class SharedReturned(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class Complete(_message.Message):
    __slots__ = ("id", "client_id", "epoch", "seqs")
    ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQS_FIELD_NUMBER: _ClassVar[int]
    id: int
    client_id: str
    epoch: int
    seqs: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, id: _Optional[int] = ..., client_id: _Optional[str] = ..., epoch: _Optional[int] = ..., seqs: _Optional[_Iterable[int]] = ...) -> None: ...

class Fenced(_message.Message):
    __slots__ = ("client_id", "epoch", "withdrawn")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    epoch: int
    withdrawn: int
    def __init__(self, client_id: _Optional[str] = ..., epoch: _Optional[int] = ..., withdrawn: _Optional[int] = ...) -> None: ...

class Synced(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("id", "attach", "detach", "subscribe", "unsubscribe", "fetch", "release", "receipt", "match_retained", "get_retained", "enqueue", "lease", "verify", "fence", "barrier", "catch_up", "end_lease", "edges", "settle", "wills_published", "withdrawn", "return_entries", "read_retained", "queue_retained", "replayed", "withdraw_connects", "verify_wills")
    ID_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    DETACH_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    UNSUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    MATCH_RETAINED_FIELD_NUMBER: _ClassVar[int]
    GET_RETAINED_FIELD_NUMBER: _ClassVar[int]
    ENQUEUE_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    BARRIER_FIELD_NUMBER: _ClassVar[int]
    CATCH_UP_FIELD_NUMBER: _ClassVar[int]
    END_LEASE_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    SETTLE_FIELD_NUMBER: _ClassVar[int]
    WILLS_PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    RETURN_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    READ_RETAINED_FIELD_NUMBER: _ClassVar[int]
    QUEUE_RETAINED_FIELD_NUMBER: _ClassVar[int]
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    WITHDRAW_CONNECTS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_WILLS_FIELD_NUMBER: _ClassVar[int]
    id: int
    attach: AttachRequest
    detach: DetachRequest
    subscribe: SubscribeRequest
    unsubscribe: UnsubscribeRequest
    fetch: FetchRequest
    release: ReleaseRequest
    receipt: ReceiptRequest
    match_retained: MatchRetainedRequest
    get_retained: GetRetainedRequest
    enqueue: EnqueueRequest
    lease: LeaseRequest
    verify: VerifyRequest
    fence: FenceRequest
    barrier: BarrierRequest
    catch_up: CatchUpRequest
    end_lease: EndLeaseRequest
    edges: EdgesRequest
    settle: SettleRequest
    wills_published: WillsPublishedRequest
    withdrawn: WithdrawnRequest
    return_entries: ReturnEntriesRequest
    read_retained: ReadRetainedRequest
    queue_retained: QueueRetainedRequest
    replayed: ReplayedRequest
    withdraw_connects: WithdrawConnectsRequest
    verify_wills: VerifyWillsRequest
    def __init__(self, id: _Optional[int] = ..., attach: _Optional[_Union[AttachRequest, _Mapping]] = ..., detach: _Optional[_Union[DetachRequest, _Mapping]] = ..., subscribe: _Optional[_Union[SubscribeRequest, _Mapping]] = ..., unsubscribe: _Optional[_Union[UnsubscribeRequest, _Mapping]] = ..., fetch: _Optional[_Union[FetchRequest, _Mapping]] = ..., release: _Optional[_Union[ReleaseRequest, _Mapping]] = ..., receipt: _Optional[_Union[ReceiptRequest, _Mapping]] = ..., match_retained: _Optional[_Union[MatchRetainedRequest, _Mapping]] = ..., get_retained: _Optional[_Union[GetRetainedRequest, _Mapping]] = ..., enqueue: _Optional[_Union[EnqueueRequest, _Mapping]] = ..., lease: _Optional[_Union[LeaseRequest, _Mapping]] = ..., verify: _Optional[_Union[VerifyRequest, _Mapping]] = ..., fence: _Optional[_Union[FenceRequest, _Mapping]] = ..., barrier: _Optional[_Union[BarrierRequest, _Mapping]] = ..., catch_up: _Optional[_Union[CatchUpRequest, _Mapping]] = ..., end_lease: _Optional[_Union[EndLeaseRequest, _Mapping]] = ..., edges: _Optional[_Union[EdgesRequest, _Mapping]] = ..., settle: _Optional[_Union[SettleRequest, _Mapping]] = ..., wills_published: _Optional[_Union[WillsPublishedRequest, _Mapping]] = ..., withdrawn: _Optional[_Union[WithdrawnRequest, _Mapping]] = ..., return_entries: _Optional[_Union[ReturnEntriesRequest, _Mapping]] = ..., read_retained: _Optional[_Union[ReadRetainedRequest, _Mapping]] = ..., queue_retained: _Optional[_Union[QueueRetainedRequest, _Mapping]] = ..., replayed: _Optional[_Union[ReplayedRequest, _Mapping]] = ..., withdraw_connects: _Optional[_Union[WithdrawConnectsRequest, _Mapping]] = ..., verify_wills: _Optional[_Union[VerifyWillsRequest, _Mapping]] = ...) -> None: ...

class Will(_message.Message):
    __slots__ = ("message", "delay_s", "message_expiry_s")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DELAY_S_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_EXPIRY_S_FIELD_NUMBER: _ClassVar[int]
    message: Message
    delay_s: int
    message_expiry_s: int
    def __init__(self, message: _Optional[_Union[Message, _Mapping]] = ..., delay_s: _Optional[int] = ..., message_expiry_s: _Optional[int] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("client_id", "clean_start", "session_expiry_s", "will", "username", "supersedes", "number", "checks_user", "tries")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CLEAN_START_FIELD_NUMBER: _ClassVar[int]
    SESSION_EXPIRY_S_FIELD_NUMBER: _ClassVar[int]
    WILL_FIELD_NUMBER: _ClassVar[int]
    USERNAME_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDES_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    CHECKS_USER_FIELD_NUMBER: _ClassVar[int]
    TRIES_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    clean_start: bool
    session_expiry_s: int
    will: Will
    username: str
    supersedes: int
    number: int
    checks_user: bool
    tries: int
    def __init__(self, client_id: _Optional[str] = ..., clean_start: _Optional[bool] = ..., session_expiry_s: _Optional[int] = ..., will: _Optional[_Union[Will, _Mapping]] = ..., username: _Optional[str] = ..., supersedes: _Optional[int] = ..., number: _Optional[int] = ..., checks_user: _Optional[bool] = ..., tries: _Optional[int] = ...) -> None: ...

class WithdrawConnectsRequest(_message.Message):
    __slots__ = ("client_ids", "numbers", "tries")
    CLIENT_IDS_FIELD_NUMBER: _ClassVar[int]
    NUMBERS_FIELD_NUMBER: _ClassVar[int]
    TRIES_FIELD_NUMBER: _ClassVar[int]
    client_ids: _containers.RepeatedScalarFieldContainer[str]
    numbers: _containers.RepeatedScalarFieldContainer[int]
    tries: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, client_ids: _Optional[_Iterable[str]] = ..., numbers: _Optional[_Iterable[int]] = ..., tries: _Optional[_Iterable[int]] = ...) -> None: ...

class DetachRequest(_message.Message):
    __slots__ = ("client_id", "epoch", "publish_will", "session_expiry_s", "sent_seq")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_WILL_FIELD_NUMBER: _ClassVar[int]
    SESSION_EXPIRY_S_FIELD_NUMBER: _ClassVar[int]
    SENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    epoch: int
    publish_will: bool
    session_expiry_s: int
    sent_seq: int
    def __init__(self, client_id: _Optional[str] = ..., epoch: _Optional[int] = ..., publish_will: _Optional[bool] = ..., session_expiry_s: _Optional[int] = ..., sent_seq: _Optional[int] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ("client_id", "epoch", "incarnation", "subscriptions", "told", "generation", "number", "tries")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    TOLD_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TRIES_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    epoch: int
    incarnation: int
    subscriptions: _containers.RepeatedCompositeFieldContainer[Subscription]
    told: _containers.RepeatedScalarFieldContainer[str]
    generation: str
    number: int
    tries: int
    def __init__(self, client_id: _Optional[str] = ..., epoch: _Optional[int] = ..., incarnation: _Optional[int] = ..., subscriptions: _Optional[_Iterable[_Union[Subscription, _Mapping]]] = ..., told: _Optional[_Iterable[str]] = ..., generation: _Optional[str] = ..., number: _Optional[int] = ..., tries: _Optional[int] = ...) -> None: ...

class UnsubscribeRequest(_message.Message):
    __slots__ = ("client_id", "epoch", "incarnation", "topic_filters", "told", "number", "tries")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FILTERS_FIELD_NUMBER: _ClassVar[int]
    TOLD_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TRIES_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    epoch: int
    incarnation: int
    topic_filters: _containers.RepeatedScalarFieldContainer[str]
    told: _containers.RepeatedScalarFieldContainer[str]
    number: int
    tries: int
    def __init__(self, client_id: _Optional[str] = ..., epoch: _Optional[int] = ..., incarnation: _Optional[int] = ..., topic_filters: _Optional[_Iterable[str]] = ..., told: _Optional[_Iterable[str]] = ..., number: _Optional[int] = ..., tries: _Optional[int] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("client_id", "incarnation", "after_seq", "max_count", "max_bytes", "epoch")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQ_FIELD_NUMBER: _ClassVar[int]
    MAX_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    incarnation: int
    after_seq: int
    max_count: int
    max_bytes: int
    epoch: int
    def __init__(self, client_id: _Optional[str] = ..., incarnation: _Optional[int] = ..., after_seq: _Optional[int] = ..., max_count: _Optional[int] = ..., max_bytes: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("client_id", "epoch", "seqs")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQS_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    epoch: int
    seqs: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, client_id: _Optional[str] = ..., epoch: _Optional[int] = ..., seqs: _Optional[_Iterable[int]] = ...) -> None: ...

class ReceiptRequest(_message.Message):
    __slots__ = ("client_id", "epoch", "packet_id", "value")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PACKET_ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    epoch: int
    packet_id: int
    value: int
    def __init__(self, client_id: _Optional[str] = ..., epoch: _Optional[int] = ..., packet_id: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...

class MatchRetainedRequest(_message.Message):
    __slots__ = ("topic_filter", "cursor")
    TOPIC_FILTER_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    topic_filter: str
    cursor: int
    def __init__(self, topic_filter: _Optional[str] = ..., cursor: _Optional[int] = ...) -> None: ...

class GetRetainedRequest(_message.Message):
    __slots__ = ("topics",)
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    topics: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, topics: _Optional[_Iterable[str]] = ...) -> None: ...

class ReturnEntriesRequest(_message.Message):
    __slots__ = ("client_id", "epoch", "incarnation", "seqs", "sent_seq")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SEQS_FIELD_NUMBER: _ClassVar[int]
    SENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    epoch: int
    incarnation: int
    seqs: _containers.RepeatedScalarFieldContainer[int]
    sent_seq: int
    def __init__(self, client_id: _Optional[str] = ..., epoch: _Optional[int] = ..., incarnation: _Optional[int] = ..., seqs: _Optional[_Iterable[int]] = ..., sent_seq: _Optional[int] = ...) -> None: ...

class ReadRetainedRequest(_message.Message):
    __slots__ = ("topic_filters", "after", "list_number", "name", "names")
    TOPIC_FILTERS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIST_NUMBER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    topic_filters: _containers.RepeatedScalarFieldContainer[str]
    after: str
    list_number: int
    name: str
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, topic_filters: _Optional[_Iterable[str]] = ..., after: _Optional[str] = ..., list_number: _Optional[int] = ..., name: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...

class QueueRetainedRequest(_message.Message):
    __slots__ = ("client_id", "incarnation", "items")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    incarnation: int
    items: _containers.RepeatedCompositeFieldContainer[RetainedForQueue]
    def __init__(self, client_id: _Optional[str] = ..., incarnation: _Optional[int] = ..., items: _Optional[_Iterable[_Union[RetainedForQueue, _Mapping]]] = ...) -> None: ...

class RetainedForQueue(_message.Message):
    __slots__ = ("topic", "subscription")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    topic: str
    subscription: Subscription
    def __init__(self, topic: _Optional[str] = ..., subscription: _Optional[_Union[Subscription, _Mapping]] = ...) -> None: ...

class ReplayedRequest(_message.Message):
    __slots__ = ("client_id", "epoch", "replays")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REPLAYS_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    epoch: int
    replays: _containers.RepeatedCompositeFieldContainer[Replay]
    def __init__(self, client_id: _Optional[str] = ..., epoch: _Optional[int] = ..., replays: _Optional[_Iterable[_Union[Replay, _Mapping]]] = ...) -> None: ...

class Replay(_message.Message):
    __slots__ = ("topic_filter", "generation", "topic")
    TOPIC_FILTER_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    topic_filter: str
    generation: str
    topic: str
    def __init__(self, topic_filter: _Optional[str] = ..., generation: _Optional[str] = ..., topic: _Optional[str] = ...) -> None: ...

class EnqueueRequest(_message.Message):
    __slots__ = ("client_id", "incarnation", "messages")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    incarnation: int
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    def __init__(self, client_id: _Optional[str] = ..., incarnation: _Optional[int] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ...) -> None: ...

class LeaseRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Figures(_message.Message):
    __slots__ = ("values", "life")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    VALUES_FIELD_NUMBER: _ClassVar[int]
    LIFE_FIELD_NUMBER: _ClassVar[int]
    values: _containers.ScalarMap[str, int]
    life: str
    def __init__(self, values: _Optional[_Mapping[str, int]] = ..., life: _Optional[str] = ...) -> None: ...

class EndLeaseRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("client_ids", "epochs")
    CLIENT_IDS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    client_ids: _containers.RepeatedScalarFieldContainer[str]
    epochs: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, client_ids: _Optional[_Iterable[str]] = ..., epochs: _Optional[_Iterable[int]] = ...) -> None: ...

class VerifyWillsRequest(_message.Message):
    __slots__ = ("will_ids",)
    WILL_IDS_FIELD_NUMBER: _ClassVar[int]
    will_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, will_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class FenceRequest(_message.Message):
    __slots__ = ("instance",)
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    instance: str
    def __init__(self, instance: _Optional[str] = ...) -> None: ...

class BarrierRequest(_message.Message):
    __slots__ = ("last",)
    LAST_FIELD_NUMBER: _ClassVar[int]
    last: bool
    def __init__(self, last: _Optional[bool] = ...) -> None: ...

class SettleRequest(_message.Message):
    __slots__ = ("client_id", "position", "told")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    TOLD_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    position: int
    told: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, client_id: _Optional[str] = ..., position: _Optional[int] = ..., told: _Optional[_Iterable[str]] = ...) -> None: ...

class WithdrawnRequest(_message.Message):
    __slots__ = ("client_id", "will_ids")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    WILL_IDS_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    will_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, client_id: _Optional[str] = ..., will_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class WillsPublishedRequest(_message.Message):
    __slots__ = ("will_ids",)
    WILL_IDS_FIELD_NUMBER: _ClassVar[int]
    will_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, will_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class EdgesRequest(_message.Message):
    __slots__ = ("living",)
    LIVING_FIELD_NUMBER: _ClassVar[int]
    living: bool
    def __init__(self, living: _Optional[bool] = ...) -> None: ...

class CatchUpRequest(_message.Message):
    __slots__ = ("client_id", "topic_filters")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FILTERS_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    topic_filters: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, client_id: _Optional[str] = ..., topic_filters: _Optional[_Iterable[str]] = ...) -> None: ...

class RouterFrame(_message.Message):
    __slots__ = ("welcome", "operations", "credit_bytes", "unacknowledged_done", "done_ids", "done_codes")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    CREDIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    UNACKNOWLEDGED_DONE_FIELD_NUMBER: _ClassVar[int]
    DONE_IDS_FIELD_NUMBER: _ClassVar[int]
    DONE_CODES_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    operations: _containers.RepeatedCompositeFieldContainer[RouterOperation]
    credit_bytes: int
    unacknowledged_done: int
    done_ids: _containers.RepeatedScalarFieldContainer[int]
    done_codes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., operations: _Optional[_Iterable[_Union[RouterOperation, _Mapping]]] = ..., credit_bytes: _Optional[int] = ..., unacknowledged_done: _Optional[int] = ..., done_ids: _Optional[_Iterable[int]] = ..., done_codes: _Optional[_Iterable[int]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("version", "instance", "name", "refusal", "text", "credit_bytes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CREDIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    version: int
    instance: str
    name: str
    refusal: Refusal
    text: str
    credit_bytes: int
    def __init__(self, version: _Optional[int] = ..., instance: _Optional[str] = ..., name: _Optional[str] = ..., refusal: _Optional[_Union[Refusal, str]] = ..., text: _Optional[str] = ..., credit_bytes: _Optional[int] = ...) -> None: ...

class RouterOperation(_message.Message):
    __slots__ = ("deliver", "push", "shared", "kick", "reply", "applied", "echo", "pushes_lost", "leaving", "figures", "fence", "publish_will", "deliver_once", "session_lost", "verify_sessions", "bans", "records")
    DELIVER_FIELD_NUMBER: _ClassVar[int]
    PUSH_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    KICK_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    ECHO_FIELD_NUMBER: _ClassVar[int]
    PUSHES_LOST_FIELD_NUMBER: _ClassVar[int]
    LEAVING_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_WILL_FIELD_NUMBER: _ClassVar[int]
    DELIVER_ONCE_FIELD_NUMBER: _ClassVar[int]
    SESSION_LOST_FIELD_NUMBER: _ClassVar[int]
    VERIFY_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    BANS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    deliver: Deliver
    push: Push
    shared: Shared
    kick: Kick
    reply: Reply
    applied: Applied
    echo: Echo
    pushes_lost: PushesLost
    leaving: Leaving
    figures: Figures
    fence: Fence
    publish_will: PublishWill
    deliver_once: Deliver
    session_lost: SessionLost
    verify_sessions: VerifySessions
    bans: Bans
    records: bytes
    def __init__(self, deliver: _Optional[_Union[Deliver, _Mapping]] = ..., push: _Optional[_Union[Push, _Mapping]] = ..., shared: _Optional[_Union[Shared, _Mapping]] = ..., kick: _Optional[_Union[Kick, _Mapping]] = ..., reply: _Optional[_Union[Reply, _Mapping]] = ..., applied: _Optional[_Union[Applied, _Mapping]] = ..., echo: _Optional[_Union[Echo, _Mapping]] = ..., pushes_lost: _Optional[_Union[PushesLost, _Mapping]] = ..., leaving: _Optional[_Union[Leaving, _Mapping]] = ..., figures: _Optional[_Union[Figures, _Mapping]] = ..., fence: _Optional[_Union[Fence, _Mapping]] = ..., publish_will: _Optional[_Union[PublishWill, _Mapping]] = ..., deliver_once: _Optional[_Union[Deliver, _Mapping]] = ..., session_lost: _Optional[_Union[SessionLost, _Mapping]] = ..., verify_sessions: _Optional[_Union[VerifySessions, _Mapping]] = ..., bans: _Optional[_Union[Bans, _Mapping]] = ..., records: _Optional[bytes] = ...) -> None: ...

class Bans(_message.Message):
    __slots__ = ("bans",)
    BANS_FIELD_NUMBER: _ClassVar[int]
    bans: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, bans: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Deliver(_message.Message):
    __slots__ = ("message", "publisher_id", "identity")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PUBLISHER_ID_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    message: Message
    publisher_id: str
    identity: str
    def __init__(self, message: _Optional[_Union[Message, _Mapping]] = ..., publisher_id: _Optional[str] = ..., identity: _Optional[str] = ...) -> None: ...

class Push(_message.Message):
    __slots__ = ("client_id", "epoch", "seq", "message")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    epoch: int
    seq: int
    message: Message
    def __init__(self, client_id: _Optional[str] = ..., epoch: _Optional[int] = ..., seq: _Optional[int] = ..., message: _Optional[_Union[Message, _Mapping]] = ...) -> None: ...

class Shared(_message.Message):
    __slots__ = ("client_id", "epoch", "message", "group", "options", "id")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    epoch: int
    message: Message
    group: str
    options: Options
    id: int
    def __init__(self, client_id: _Optional[str] = ..., epoch: _Optional[int] = ..., message: _Optional[_Union[Message, _Mapping]] = ..., group: _Optional[str] = ..., options: _Optional[_Union[Options, _Mapping]] = ..., id: _Optional[int] = ...) -> None: ...

class Kick(_message.Message):
    __slots__ = ("client_id", "epoch", "reason_code")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REASON_CODE_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    epoch: int
    reason_code: int
    def __init__(self, client_id: _Optional[str] = ..., epoch: _Optional[int] = ..., reason_code: _Optional[int] = ...) -> None: ...

class SessionLost(_message.Message):
    __slots__ = ("client_id", "epoch")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    epoch: int
    def __init__(self, client_id: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class VerifySessions(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Fence(_message.Message):
    __slots__ = ("client_id", "epoch")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    epoch: int
    def __init__(self, client_id: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class PublishWill(_message.Message):
    __slots__ = ("will_id", "client_id", "epoch", "message")
    WILL_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    will_id: str
    client_id: str
    epoch: int
    message: Message
    def __init__(self, will_id: _Optional[str] = ..., client_id: _Optional[str] = ..., epoch: _Optional[int] = ..., message: _Optional[_Union[Message, _Mapping]] = ...) -> None: ...

class Applied(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class Echo(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class PushesLost(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Leaving(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Reply(_message.Message):
    __slots__ = ("id", "failure", "text", "attach", "fetch", "match_retained", "get_retained", "lease", "verify", "verify_wills", "edges", "detach", "withdrawn", "read_retained", "session_lost")
    ID_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    FETCH_FIELD_NUMBER: _ClassVar[int]
    MATCH_RETAINED_FIELD_NUMBER: _ClassVar[int]
    GET_RETAINED_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    VERIFY_WILLS_FIELD_NUMBER: _ClassVar[int]
    EDGES_FIELD_NUMBER: _ClassVar[int]
    DETACH_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    READ_RETAINED_FIELD_NUMBER: _ClassVar[int]
    SESSION_LOST_FIELD_NUMBER: _ClassVar[int]
    id: int
    failure: Failure
    text: str
    attach: AttachReply
    fetch: FetchReply
    match_retained: MatchRetainedReply
    get_retained: GetRetainedReply
    lease: LeaseReply
    verify: VerifyReply
    verify_wills: VerifyWillsReply
    edges: EdgesReply
    detach: DetachReply
    withdrawn: WithdrawnReply
    read_retained: ReadRetainedReply
    session_lost: bool
    def __init__(self, id: _Optional[int] = ..., failure: _Optional[_Union[Failure, str]] = ..., text: _Optional[str] = ..., attach: _Optional[_Union[AttachReply, _Mapping]] = ..., fetch: _Optional[_Union[FetchReply, _Mapping]] = ..., match_retained: _Optional[_Union[MatchRetainedReply, _Mapping]] = ..., get_retained: _Optional[_Union[GetRetainedReply, _Mapping]] = ..., lease: _Optional[_Union[LeaseReply, _Mapping]] = ..., verify: _Optional[_Union[VerifyReply, _Mapping]] = ..., verify_wills: _Optional[_Union[VerifyWillsReply, _Mapping]] = ..., edges: _Optional[_Union[EdgesReply, _Mapping]] = ..., detach: _Optional[_Union[DetachReply, _Mapping]] = ..., withdrawn: _Optional[_Union[WithdrawnReply, _Mapping]] = ..., read_retained: _Optional[_Union[ReadRetainedReply, _Mapping]] = ..., session_lost: _Optional[bool] = ...) -> None: ...

class AttachReply(_message.Message):
    __slots__ = ("epoch", "incarnation", "session_present", "sent_seq", "sent_uncertain", "last_seq", "released", "receipts", "receipt_wraps", "subscriptions", "wills", "fence_position", "taken_epoch", "has_discarded", "replays")
    class ReceiptWrapsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SESSION_PRESENT_FIELD_NUMBER: _ClassVar[int]
    SENT_SEQ_FIELD_NUMBER: _ClassVar[int]
    SENT_UNCERTAIN_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_WRAPS_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTIONS_FIELD_NUMBER: _ClassVar[int]
    WILLS_FIELD_NUMBER: _ClassVar[int]
    FENCE_POSITION_FIELD_NUMBER: _ClassVar[int]
    TAKEN_EPOCH_FIELD_NUMBER: _ClassVar[int]
    HAS_DISCARDED_FIELD_NUMBER: _ClassVar[int]
    REPLAYS_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    incarnation: int
    session_present: bool
    sent_seq: int
    sent_uncertain: bool
    last_seq: int
    released: _containers.RepeatedScalarFieldContainer[int]
    receipts: bytes
    receipt_wraps: _containers.ScalarMap[int, int]
    subscriptions: _containers.RepeatedCompositeFieldContainer[Subscription]
    wills: _containers.RepeatedCompositeFieldContainer[PublishWill]
    fence_position: int
    taken_epoch: int
    has_discarded: bool
    replays: _containers.RepeatedCompositeFieldContainer[Replay]
    def __init__(self, epoch: _Optional[int] = ..., incarnation: _Optional[int] = ..., session_present: _Optional[bool] = ..., sent_seq: _Optional[int] = ..., sent_uncertain: _Optional[bool] = ..., last_seq: _Optional[int] = ..., released: _Optional[_Iterable[int]] = ..., receipts: _Optional[bytes] = ..., receipt_wraps: _Optional[_Mapping[int, int]] = ..., subscriptions: _Optional[_Iterable[_Union[Subscription, _Mapping]]] = ..., wills: _Optional[_Iterable[_Union[PublishWill, _Mapping]]] = ..., fence_position: _Optional[int] = ..., taken_epoch: _Optional[int] = ..., has_discarded: _Optional[bool] = ..., replays: _Optional[_Iterable[_Union[Replay, _Mapping]]] = ...) -> None: ...

class WithdrawnReply(_message.Message):
    __slots__ = ("will_ids",)
    WILL_IDS_FIELD_NUMBER: _ClassVar[int]
    will_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, will_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DetachReply(_message.Message):
    __slots__ = ("wills", "fenced")
    WILLS_FIELD_NUMBER: _ClassVar[int]
    FENCED_FIELD_NUMBER: _ClassVar[int]
    wills: _containers.RepeatedCompositeFieldContainer[PublishWill]
    fenced: bool
    def __init__(self, wills: _Optional[_Iterable[_Union[PublishWill, _Mapping]]] = ..., fenced: _Optional[bool] = ...) -> None: ...

class QueuedMessage(_message.Message):
    __slots__ = ("seq", "message")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    seq: int
    message: Message
    def __init__(self, seq: _Optional[int] = ..., message: _Optional[_Union[Message, _Mapping]] = ...) -> None: ...

class FetchReply(_message.Message):
    __slots__ = ("entries", "records")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[QueuedMessage]
    records: bytes
    def __init__(self, entries: _Optional[_Iterable[_Union[QueuedMessage, _Mapping]]] = ..., records: _Optional[bytes] = ...) -> None: ...

class MatchRetainedReply(_message.Message):
    __slots__ = ("topics", "cursor")
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    topics: _containers.RepeatedScalarFieldContainer[str]
    cursor: int
    def __init__(self, topics: _Optional[_Iterable[str]] = ..., cursor: _Optional[int] = ...) -> None: ...

class GetRetainedReply(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    def __init__(self, messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ...) -> None: ...

class ReadRetainedReply(_message.Message):
    __slots__ = ("messages", "after", "list_number", "is_of_now")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIST_NUMBER_FIELD_NUMBER: _ClassVar[int]
    IS_OF_NOW_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    after: str
    list_number: int
    is_of_now: bool
    def __init__(self, messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., after: _Optional[str] = ..., list_number: _Optional[int] = ..., is_of_now: _Optional[bool] = ...) -> None: ...

class LeaseReply(_message.Message):
    __slots__ = ("was_lost", "routers", "broker_time_ms", "wall_time_ms")
    WAS_LOST_FIELD_NUMBER: _ClassVar[int]
    ROUTERS_FIELD_NUMBER: _ClassVar[int]
    BROKER_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    WALL_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    was_lost: bool
    routers: _containers.RepeatedScalarFieldContainer[str]
    broker_time_ms: int
    wall_time_ms: int
    def __init__(self, was_lost: _Optional[bool] = ..., routers: _Optional[_Iterable[str]] = ..., broker_time_ms: _Optional[int] = ..., wall_time_ms: _Optional[int] = ...) -> None: ...

class EdgesReply(_message.Message):
    __slots__ = ("edge_ids", "living")
    EDGE_IDS_FIELD_NUMBER: _ClassVar[int]
    LIVING_FIELD_NUMBER: _ClassVar[int]
    edge_ids: _containers.RepeatedScalarFieldContainer[str]
    living: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, edge_ids: _Optional[_Iterable[str]] = ..., living: _Optional[_Iterable[str]] = ...) -> None: ...

class VerifyReply(_message.Message):
    __slots__ = ("live", "lost")
    LIVE_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    live: _containers.RepeatedScalarFieldContainer[bool]
    lost: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, live: _Optional[_Iterable[bool]] = ..., lost: _Optional[_Iterable[bool]] = ...) -> None: ...

class VerifyWillsReply(_message.Message):
    __slots__ = ("here",)
    HERE_FIELD_NUMBER: _ClassVar[int]
    here: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, here: _Optional[_Iterable[bool]] = ...) -> None: ...
