-- A head-end after some years, in proportion to {meters}. Run by bench/million.py as the owner of an empty, migrated
-- database; each statement in a transaction of its own. Times lie before {now}.

-- Concentrators, meters, places and who belongs where.
INSERT INTO concentrators_concentrator (name, is_active, created_at, uplinks_to_lose)
SELECT 'DCU-' || lpad(n::text, 5, '0'), n % 250 <> 7, {now} - interval '2 years', 0
FROM generate_series(1, {concentrators}) AS n;

INSERT INTO meters_meter (system_title, serial_number, name, status, interval_minutes, commissioned_at, retired_at, created_at)
SELECT decode('02' || lpad(to_hex(n), 14, '0'), 'hex'),
       CASE n % 3 WHEN 0 THEN 'LGZ' WHEN 1 THEN 'EMH' ELSE 'ISK' END || (10000000 + n),
       CASE WHEN n % 10 = 0 THEN 'Pump ' || n ELSE '' END,
       CASE WHEN n % 500 = 3 THEN 'retired' WHEN n % 900 = 5 THEN 'suspended' ELSE 'commissioned' END,
       30, {now} - interval '400 days',
       CASE WHEN n % 500 = 3 THEN {now} - interval '20 days' END, {now} - interval '400 days'
FROM generate_series(1, {meters}) AS n;

INSERT INTO meters_earlierlength (meter_id, interval_minutes, valid_from, valid_to)
SELECT id, 60, NULL, date_trunc('day', {now}) - interval '30 days' FROM meters_meter WHERE id % 1000 = 11;

INSERT INTO meters_place (name, address, customer_reference)
SELECT 'MP-' || lpad(n::text, 8, '0'),
       (ARRAY['Garden', 'Station', 'Mill', 'Church', 'Harbour', 'Oak', 'Long', 'New'])[n % 8 + 1]
       || (ARRAY[' Street ', ' Road ', ' Lane '])[n % 3 + 1] || (n % 197 + 1) || ', ' || lpad((n % 9973 + 10000)::text, 5, '0')
       || ' ' || (ARRAY['Norton', 'Ashford', 'Milton', 'Kirkby', 'Weston', 'Sutton', 'Thorpe'])[n % 7 + 1], 'C-' || n
FROM generate_series(1, {meters}) AS n;

INSERT INTO meters_installation (meter_id, place_id, installed_at, removed_at)
SELECT m.id, m.id, m.commissioned_at, m.retired_at FROM meters_meter m;

INSERT INTO concentrators_assignment (meter_id, concentrator_id, valid_from, valid_to)
SELECT id, (id - 1) / {meters_each} + 1, commissioned_at,
       CASE WHEN id % 400 = 21 THEN {now} - interval '60 days' END
FROM meters_meter;
INSERT INTO concentrators_assignment (meter_id, concentrator_id, valid_from)
SELECT meter_id, concentrator_id % {concentrators} + 1, valid_to FROM concentrators_assignment WHERE valid_to IS NOT NULL;

-- Keys are derived from one fleet key, so that each opens and none has to be wrapped.
INSERT INTO keyvault_devicekey (system_title, epoch, algorithm, state, source, fleet_key_id, version, fingerprint, created_at, activated_at)
SELECT m.system_title, e, 10, 'active', 'derived', {fleet_key}, 1, substring(sha256(m.system_title || decode(lpad(e::text, 2, '0'), 'hex')) FOR 8),
       m.commissioned_at, CASE WHEN e = 1 THEN m.commissioned_at END
FROM meters_meter m, generate_series(0, 1) AS e;

INSERT INTO keyvault_invocationcounter (key_id, key_version, highest, floor, heard_at, heard_via)
SELECT k.id, 1, CASE WHEN k.epoch = 1 AND m.id % 300 <> 9 THEN 19200 ELSE -1 END, 0,
       CASE WHEN k.epoch = 1 AND m.id % 300 <> 9 THEN
           {now} - CASE WHEN m.id % 100 = 1 THEN make_interval(days => 2 + (m.id / 100 % 40)::int) ELSE make_interval(secs => (m.id % 1800)::int) END END,
       CASE WHEN k.epoch = 1 AND m.id % 300 <> 9 THEN a.concentrator_id END
FROM keyvault_devicekey k JOIN meters_meter m ON m.system_title = k.system_title
JOIN concentrators_assignment a ON a.meter_id = m.id AND a.valid_to IS NULL;

-- What was posted, and what was wrong.
INSERT INTO concentrators_uplink (concentrator_id, received_at, sha256, body, octets, frames, accepted, duplicate,
    rejected, failures, waiting, verified_at, attempts, claims, begun, due_at, last_error)
SELECT n % {concentrators} + 1, at, sha256(n::text::bytea), CASE WHEN n > {uplinks} - 500 THEN '\x00'::bytea END, 84000, 1000,
       990, 0, 10, '{{"tag_invalid": 10}}', 0, at + interval '1 s', 0, 0, 0, at, ''
FROM generate_series(1, {uplinks}) AS n, LATERAL (SELECT {now} - make_interval(secs => ({uplinks} - n) * 26.0)) AS t(at);

INSERT INTO meters_meterevent (meter_id, register_id, captured_at, value, uplink_id, received_at)
SELECT n % {meters} + 1, r.id, {now} - make_interval(secs => n * 130.0), n % 3, n % {uplinks} + 1, {now} - make_interval(secs => n * 130.0 - 60)
FROM generate_series(1, {events}) AS n JOIN meters_register r ON r.obis_code = CASE WHEN n % 50 = 0 THEN '0-0:96.11.1' ELSE '0-0:96.11.0' END
ON CONFLICT DO NOTHING;

-- A tenth of all meters in a district, by its concentrators; a hundred in a young route.
INSERT INTO meters_fleetgroup (kind, name, note, created_at) VALUES ('district', 'North', '', {now}), ('route', 'R1', '', {now});
INSERT INTO concentrators_concentratoringroup (group_id, concentrator_id)
SELECT g.id, c.id FROM meters_fleetgroup g JOIN concentrators_concentrator c ON c.id % 10 = 3 WHERE g.name = 'North';
INSERT INTO meters_meteringroup (group_id, meter_id, via)
SELECT g.id, {meters} - n, 0 FROM meters_fleetgroup g JOIN generate_series(0, 99) AS n ON n < {meters} WHERE g.name = 'R1';

-- Each night of a month a concentrator's meters are out for an hour or two; those of the last one say nothing since.
INSERT INTO meters_meterevent (meter_id, register_id, captured_at, value, uplink_id, received_at)
SELECT m.id, r.id, at, value, 1, at + interval '1 minute'
FROM generate_series(0, 30) AS night JOIN meters_meter m ON (m.id - 1) / {meters_each} = night * 13 % {concentrators}
JOIN meters_register r ON r.obis_code = '0-0:96.11.0' JOIN (VALUES (1, 0), (2, 1)) AS e(value, ends) ON night > 0 OR ends = 0,
LATERAL (SELECT {now} - make_interval(days => night, mins => 200 - ends * (60 + m.id % 60), secs => (m.id % 50)::int)) AS t(at)
ON CONFLICT DO NOTHING;

INSERT INTO concentrators_acknowledgement (by, at, note, selection)
VALUES ('bench', {now} - interval '10 days', 'known: firmware 1.2', '{{}}');

INSERT INTO concentrators_integrityfailure (kind, severity, concentrator_id, uplink_id, frame_index, frame, kid,
    invocation_counter, meter_id, received_at, detail, acknowledgement_id)
SELECT (ARRAY['tag_invalid', 'replayed', 'clock_skew', 'counter_too_old', 'payload_invalid'])[kind + 1],
       CASE kind WHEN 0 THEN 30 ELSE 20 END,
       (m - 1) / {meters_each} + 1, n % {uplinks} + 1, n % 1000, sha256(n::text::bytea) || sha256((n + 1)::text::bytea),
       decode('02' || lpad(to_hex(m), 14, '0') || '0001', 'hex'), n, m, {now} - make_interval(secs => ({failures} - n) * 20.0),
       'the tag does not verify', CASE WHEN n < {failures} / 2 THEN 1 END
FROM generate_series(1, {failures}) AS n,
     LATERAL (SELECT ((n::bigint * 7919 % ({meters} * 9 / 10)) + 1)::int, n % 5) AS t(m, kind);

INSERT INTO concentrators_failuretally (concentrator_id, kind, hour, failures)
SELECT c, (ARRAY['tag_invalid', 'replayed', 'clock_skew'])[c % 3 + 1], date_trunc('hour', {now}) - make_interval(hours => h), 1 + h % 9
FROM generate_series(1, {concentrators}) AS c, generate_series(0, 1349) AS h;

-- Readings: the last five hours of all meters, a month of some, a register that few have; and totals of a month.
INSERT INTO meters_reading (captured_at, value, uplink_id, meter_id, register_id, interval_minutes)
SELECT at, CASE WHEN r.kind = 'interval' THEN 50 + (m + n) % 400 ELSE 1200000 + n * 250 END, m % {uplinks} + 1, m, r.id,
       CASE WHEN r.kind = 'interval' THEN 30 ELSE 0 END
FROM generate_series(1, {day_intervals}) AS n, LATERAL (SELECT {start} - make_interval(mins => 30 * n)) AS t(at),
     generate_series(1, {meters}) AS m, meters_register r
WHERE r.obis_code IN ('1-0:1.8.0', '1-0:1.29.0') AND m % 100 <> 1 AND m % 500 <> 3;
INSERT INTO meters_reading (captured_at, value, uplink_id, meter_id, register_id, interval_minutes)
SELECT at, CASE WHEN r.kind = 'interval' THEN 50 + (m + n) % 400 ELSE 1200000 - n * 250 END, m % {uplinks} + 1, m, r.id,
       CASE WHEN r.kind = 'interval' THEN 30 ELSE 0 END
FROM generate_series({day_intervals} + 1, 48 * 31) AS n, LATERAL (SELECT {start} - make_interval(mins => 30 * n)) AS t(at),
     generate_series(2, {meters}, 1000) AS m, meters_register r
WHERE r.obis_code IN ('1-0:1.8.0', '1-0:1.29.0');
INSERT INTO meters_reading (captured_at, value, uplink_id, meter_id, register_id, interval_minutes)
SELECT date_trunc('day', {now}) - make_interval(days => d), 230, 1, m, r.id, 0
FROM generate_series(1, 30) AS d, generate_series(2, {meters}, 50000) AS m, meters_register r WHERE r.obis_code = '{rare}';

INSERT INTO concentrators_intervaltotal (concentrator_id, register_id, interval_minutes, interval_start, value_sum, meters_counted)
SELECT c, r.id, 30, {start} - make_interval(mins => 30 * n), 250 * {meters_each}, {meters_each} - 12
FROM generate_series({day_intervals} + 1, 48 * 31) AS n, generate_series(1, {concentrators}) AS c, meters_register r
WHERE r.obis_code = '1-0:1.29.0';
INSERT INTO concentrators_intervaltotal (concentrator_id, register_id, interval_minutes, interval_start, value_sum, meters_counted)
SELECT a.concentrator_id, r.register_id, 30, r.captured_at, sum(r.value), count(*)
FROM meters_reading r JOIN concentrators_assignment a ON a.meter_id = r.meter_id AND a.valid_to IS NULL
WHERE r.interval_minutes = 30 AND r.captured_at >= {start} - make_interval(mins => 30 * {day_intervals}) GROUP BY 1, 2, 3, 4;

-- Commands, rotations, alerts.
INSERT INTO concentrators_command (meter_id, kind, parameters, state, octets, kid, key_version, invocation_counter, attempts,
    created_by, created_at, next_attempt_at, expires_at, offered_at, ended_at)
SELECT n % {meters} + 1, 2, '{{}}', CASE WHEN n % 50 = 0 THEN 'queued' ELSE 'done' END, NULL, NULL, NULL, NULL, 1, 'bench', at, at,
       CASE WHEN n % 50 = 0 THEN {now} + interval '30 days' ELSE at + interval '3 days' END, at, CASE WHEN n % 50 <> 0 THEN at + interval '1 hour' END
FROM generate_series(1, {commands}) AS n, LATERAL (SELECT {now} - make_interval(secs => n * 60.0)) AS t(at);

INSERT INTO concentrators_rotationwave (name, state, rate_per_hour, failure_budget, created_by, created_at, finished_at)
SELECT 'rollout ' || n, CASE WHEN n < 3 THEN 'finished' ELSE 'paused' END, 1000, 100, 'bench', {now} - make_interval(days => 90 - n * 20), CASE WHEN n < 3 THEN {now} - interval '30 days' END
FROM generate_series(1, 3) AS n;
INSERT INTO concentrators_wavemeter (wave_id, meter_id)
SELECT w.id, m.id FROM concentrators_rotationwave w JOIN meters_meter m ON m.id <= {meters} / 10;

INSERT INTO alerts_alert (rule_id, severity, subject_kind, subject_id, subject, summary, subjects, opened_at, seen_at, resolved_at, acknowledged_by)
SELECT r.id, r.severity, 'meter', m.id, m.serial_number, 'silent for 26 hours', 1, {now} - make_interval(hours => (m.id % 500)::int), {now},
       CASE WHEN m.id % 40 <> 0 THEN {now} - make_interval(hours => (m.id % 500)::int - 1) END, ''
FROM meters_meter m, (SELECT * FROM alerts_rule WHERE condition = 'silent_meter' LIMIT 1) r WHERE m.id % 100 = 1 OR m.id % 4000 = 0;
INSERT INTO alerts_alertstep (alert_id, at, step, actor, note)
SELECT id, opened_at, 'opened', '', '' FROM alerts_alert UNION ALL SELECT id, resolved_at, 'resolved', '', '' FROM alerts_alert WHERE resolved_at IS NOT NULL;
