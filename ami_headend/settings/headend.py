"""Limits of what concentrators and meters send, how long it is kept, and what the head-end orders by itself."""

from ami_headend.settings.environment import env

CELL = env.str("CELL", "")  # the name of this cell, which its tokens say; empty: there is but one head-end
RETENTION_DAYS = env.int("RETENTION_DAYS", 1096)  # readings and events, dropped by the month
RETRANSMISSION_WINDOW_S = env.int("RETRANSMISSION_WINDOW_S", 10 * 86_400)
CLOCK_SKEW_S = 300
COUNTER_GAP_RUNS = env.int("COUNTER_GAP_RUNS", 1024)
SESSIONS_KEPT = env.int("SESSIONS_KEPT", 64)
DEVICE_CIPHER_CACHE_SIZE = env.int("DEVICE_CIPHER_CACHE_SIZE", 1_000_000)  # some 900 octets each
UPLINK_MAX_OCTETS = env.int("UPLINK_MAX_OCTETS", 4 * 1024 * 1024)  # after decompression
UPLINK_MAX_FRAMES = env.int("UPLINK_MAX_FRAMES", 10_000)
FRAME_MAX_OCTETS = env.int("FRAME_MAX_OCTETS", 1024)
DLMS_LISTEN = env.str("DLMS_LISTEN", "")  # arguments of the listener that make up runs; empty: none
UNAUTHENTICATED_TOTALS = env.bool("UNAUTHENTICATED_TOTALS", False)
UPLINK_RATE = env.str("UPLINK_RATE", "600/minute")  # per concentrator
UPLINK_STATUS_RATE = env.str("UPLINK_STATUS_RATE", "600/minute")  # per concentrator
UPLINK_OCTETS_PER_HOUR = env.int("UPLINK_OCTETS_PER_HOUR", 512 * 1024 * 1024)  # per concentrator, after decompression
UPLINK_QUEUE_MAX = env.int("UPLINK_QUEUE_MAX", 5_000)  # unverified uplinks before 503
UPLINK_QUEUE_SHARE = env.int("UPLINK_QUEUE_SHARE", max(1, UPLINK_QUEUE_MAX // 10))  # of one concentrator before 429
UPLINK_SWEEP_AFTER_S = env.int("UPLINK_SWEEP_AFTER_S", 60)
UPLINK_SPLIT_AFTER = env.int("UPLINK_SPLIT_AFTER", 3)  # failed attempts before it is split
UPLINK_KEEP_DAYS = env.int("UPLINK_KEEP_DAYS", 30)  # octets of verified uplinks
UPLINK_KEEP_WAITING_DAYS = env.int("UPLINK_KEEP_WAITING_DAYS", 180)  # while frames wait for a key
KEY_GRACE_DAYS = env.int("KEY_GRACE_DAYS", 45)  # late frames under a replaced key are accepted this long
# RFC 9053 section 4.2 leaves room for 2^23 frames under one key; this leaves time to replace it.
KEY_ROTATE_AT_COUNTER = env.int("KEY_ROTATE_AT_COUNTER", 3 * 2**21)
BAD_TAGS_PER_HOUR = env.int("BAD_TAGS_PER_HOUR", 2**13)  # from one concentrator; above this, its uplinks come last
UNKNOWN_FRAMES_PER_HOUR = env.int("UNKNOWN_FRAMES_PER_HOUR", 50_000)  # under unknown keys; the same
COMMAND_RATE = env.str("COMMAND_RATE", "120/minute")  # polls for commands, per concentrator
RECEIPT_RATE = env.str("RECEIPT_RATE", "1200/minute")  # receipts of commands, per concentrator
HOP_RATE = env.str("HOP_RATE", "60/minute")  # requests for hop keys, its own next key, reports of dropped frames
COMMAND_RETRY_S = env.int("COMMAND_RETRY_S", 60)  # an unacknowledged command is offered again, later each time
COMMAND_EXPIRES_S = env.int("COMMAND_EXPIRES_S", 7 * 86_400)
RESEND_GAPS = env.bool("RESEND_GAPS", False)  # order missing intervals from meters without being told
RESEND_GAPS_AFTER_S = env.int("RESEND_GAPS_AFTER_S", 86_400)  # most late frames have come by then
RESEND_GAPS_DAYS = env.int("RESEND_GAPS_DAYS", 7)  # older gaps are left to operators
RESENDS_PER_DAY = env.int("RESENDS_PER_DAY", 10)  # per meter, the oldest gaps first
MASKED_SETTLE_S = env.int("MASKED_SETTLE_S", 900)  # nothing more came for so long: masked values become a set
FAILURE_KEEP_DAYS = env.int("FAILURE_KEEP_DAYS", 400)  # evidence of refused frames, and their counts
UPLINK_ROWS_KEEP_DAYS = env.int("UPLINK_ROWS_KEEP_DAYS", RETENTION_DAYS + 62)  # verdicts; readings name their uplink
FEED_KEEP_DAYS = env.int("FEED_KEEP_DAYS", 92)  # rows of the feed, for consumers that come late
REGISTER_CHECK_DAYS = env.int("REGISTER_CHECK_DAYS", 2)  # readings of a register further apart are not compared
FEED_FOLDERS: list[str] = env.list(
    "FEED_FOLDERS", []
)  # folders that files of the feed may be written to, and into those in them
FEED_EXCHANGE_S = env.float("FEED_EXCHANGE_S", 60)  # one batch to one receiver, from look-up to the last octet
ARCHIVE_URL = env.str("ARCHIVE_URL", "")  # where old readings go as files: file:///path or s3://bucket; empty: nowhere
ARCHIVE_AFTER_MONTHS = env.int("ARCHIVE_AFTER_MONTHS", 13)  # whole months that stay in the database
FAILURE_ROWS_PER_HOUR = env.int("FAILURE_ROWS_PER_HOUR", 1_000)  # per concentrator and kind
