-- Reading for operators: pages of sessions and of retained topics, each operation over so many names
-- at most, so that the server does nothing else only for a moment. Only clear_queue changes anything.

-- Records of retained messages that one page copies, in bytes; of what comes after, only lengths are said.
local PAGE_BYTES = 1048576

-- The mount point and the client identifier in a session key.
local function parts_of(C)
  local mount_point, client = string.match(C, '^(.*)%z([^%z]*)$')
  return mount_point or '', client or C
end

local function begins_with(text, prefix) return string.sub(text, 1, #prefix) == prefix end

-- arguments: P, cursor, how many names, beginning of the client identifier ('' = any), '=' and the
--   mount point ('' = any), 'c' = connected, 'o' = offline, '' = all, '=' and the user ('' = any)
-- result: {next cursor, how many names were looked at, {C, edge, incarnation, session expiry, when it
--   ends ('' = never), user ('' = none), messages in its queue, subscriptions, …}}: durable sessions
local function list_sessions(i)
  local P, prefix, mount_point = ARGV[i], ARGV[i + 3], ARGV[i + 4]
  local state, user = ARGV[i + 5], ARGV[i + 6]
  local page, found = call('SSCAN', P .. 'durable', ARGV[i + 1], 'COUNT', ARGV[i + 2]), {}
  for _, C in ipairs(page[2]) do
    local where, client = parts_of(C)
    if begins_with(client, prefix) and (mount_point == '' or mount_point == '=' .. where) then
      local v = call('HMGET', P .. 's:' .. C, 'g', 'i', 'x', 'd', 'o')
      local offline = v[1] == ''
      if v[2] and (state == '' or (state == 'o') == offline)
        and (user == '' or user == '=' .. (v[5] or '')) then
        for _, word in ipairs({C, v[1], v[2], v[3], v[4] or '', v[5] or '',
          call('XLEN', P .. 'q:' .. C .. ':' .. v[2]), call('HLEN', P .. 'b:' .. C)}) do
          found[#found + 1] = word
        end
      end
    end
  end
  return {page[1], #page[2], found}
end

-- arguments: P, C
-- result: {fields of the session, messages in its queue, bytes of it, last seq, how many of them expire,
--   subscriptions, exchanges in PUBREL state, {epoch, record, …} of wills that are being published,
--   when the oldest message was queued ('' = not known)}
local function describe_session(i)
  local P, C = ARGV[i], ARGV[i + 1]
  local fields, incarnation = call('HGETALL', P .. 's:' .. C), call('HGET', P .. 's:' .. C, 'i')
  local wills, last = {}, 0
  for _, one in ipairs(pending_wills(P, C)) do
    local record = call('HGET', P .. 'wills', one.epoch .. ':' .. C)
    if record then
      wills[#wills + 1] = one.epoch
      wills[#wills + 1] = record
    end
  end
  if not incarnation or incarnation == '0' then return {fields, 0, 0, 0, 0, 0, 0, wills, ''} end
  local name = C .. ':' .. incarnation
  local q = P .. 'q:' .. name
  local length = call('XLEN', q)
  if call('EXISTS', q) == 1 then
    local stream = call('XINFO', 'STREAM', q)
    for n = 1, #stream, 2 do
      if stream[n] == 'last-generated-id' then last = tonumber(string.sub(stream[n + 1], 3)) end
    end
  end
  local oldest = call('XRANGE', q, '-', '+', 'COUNT', 1)[1]
  return {fields, length, read_size(q, length), last, call('ZCARD', P .. 'v:' .. name),
    call('HLEN', P .. 'b:' .. C), #call('SMEMBERS', P .. 'o:' .. C), wills, oldest and oldest[2][4] or ''}
end

-- arguments: P, cursor, how many names, topic filter
-- result: {next cursor, how many names were looked at, {C, edge, options, …}}: durable sessions with
--   exactly this filter
local function list_subscribers(i)
  local P, name = ARGV[i], ARGV[i + 3]
  local page, found = call('SSCAN', P .. 'durable', ARGV[i + 1], 'COUNT', ARGV[i + 2]), {}
  for _, C in ipairs(page[2]) do
    local options = call('HGET', P .. 'b:' .. C, name)
    if options then
      found[#found + 1] = C
      found[#found + 1] = call('HGET', P .. 's:' .. C, 'g') or ''
      found[#found + 1] = options
    end
  end
  return {page[1], #page[2], found}
end

-- A page of topics. Servers before Redis 7.4 and Valkey 8 have no NOVALUES: fewer are read there.
local function scan_topics(P, cursor, count, glob)
  local page = redis.pcall('HSCAN', P .. 'retained', cursor, 'MATCH', glob, 'COUNT', count, 'NOVALUES')
  if not page.err then return page[1], page[2] end
  local names = {}
  page = call('HSCAN', P .. 'retained', cursor, 'MATCH', glob, 'COUNT', math.ceil(count / 16))
  for n = 1, #page[2], 2 do names[#names + 1] = page[2][n] end
  return page[1], names
end

-- arguments: P, cursor, how many names, pattern of topics, bytes of the records that are said
-- result: {next cursor, {topic, length of the record, its beginning, …}}; the beginning is '' where
--   the records are too large together
local function list_retained(i)
  local P, head, left = ARGV[i], tonumber(ARGV[i + 4]), PAGE_BYTES
  local after, topics = scan_topics(P, ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3])
  local found = {}
  for _, topic in ipairs(topics) do
    local size, record = redis.pcall('HSTRLEN', P .. 'retained', topic), ''
    if type(size) ~= 'number' then size = 0 end
    if left > 0 and size <= left then
      record = call('HGET', P .. 'retained', topic) or ''
      size = #record
    end
    left = left - size
    if size > 0 then
      found[#found + 1] = topic
      found[#found + 1] = size
      found[#found + 1] = string.sub(record, 1, head + #topic)
    end
  end
  return {after, found}
end

-- arguments: P, cursor, how many names, pattern of topics, the beginning that these topics have
-- result: {next cursor, {level after that, topics at it or below, bytes, 1 = it has a message itself, …}}
local function retained_levels(i)
  local P, from = ARGV[i], #ARGV[i + 4] + 1
  local after, topics = scan_topics(P, ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3])
  local levels, order = {}, {}
  for _, topic in ipairs(topics) do
    local size = redis.pcall('HSTRLEN', P .. 'retained', topic)
    if type(size) ~= 'number' then size = #(call('HGET', P .. 'retained', topic) or '') end
    local stop = string.find(topic, '/', from, true)
    local name = string.sub(topic, from, stop and stop - 1 or -1)
    local level = levels[name]
    if not level then
      level = {name, 0, 0, 0}
      levels[name] = level
      order[#order + 1] = level
    end
    level[2], level[3] = level[2] + 1, level[3] + size
    if not stop then level[4] = 1 end
  end
  local found = {}
  for _, level in ipairs(order) do
    for _, word in ipairs(level) do found[#found + 1] = word end
  end
  return {after, found}
end

-- Deletes entries of a queue. QoS 2 messages whose delivery may have begun stay: a client that has got
-- one would take a later message with its packet identifier for the same.
--
-- arguments: P, C, epoch, seq after which is deleted, seq up to which, maximum bytes that are looked at
-- result: {-1} = fenced, else {how many were deleted, last seq that was looked at, 1 = there may be more}
local function clear_queue(i)
  local P, C, last, bytes = ARGV[i], ARGV[i + 1], ARGV[i + 4], tonumber(ARGV[i + 5])
  local f = session(P, C)
  if not f or f.e ~= ARGV[i + 2] or f.i == '0' then return {-1} end
  local name, at, ids, seqs, more = C .. ':' .. f.i, ARGV[i + 3], {}, {}, 1
  local q, sent = P .. 'q:' .. name, f.u == '1' and math.huge or tonumber(f.n)
  while #ids < 1000 and bytes > 0 and more == 1 do
    local entries = call('XRANGE', q, '(1-' .. at, '1-' .. last, 'COUNT', 16)
    if #entries < 16 then more = 0 end
    for _, entry in ipairs(entries) do
      local record = entry[2][2]
      local form, flags = string.byte(record, 1, 2)
      local qos = form == QUEUED and flags % 4 or 2
      at = string.sub(entry[1], 3)
      bytes = bytes - #record - 64
      if qos < 2 or tonumber(at) > sent then
        ids[#ids + 1] = entry[1]
        seqs[#seqs + 1] = at
      end
    end
  end
  if #ids > 0 then
    lengths[q], sizes[q] = nil, nil
    call('XDEL', q, unpack(ids))
    if f.v then call('ZREM', P .. 'v:' .. name, unpack(seqs)) end
  end
  return {#ids, tonumber(at), more}
end
