-- What happens by time: lost edges, expired sessions, delayed wills, abandoned queues.
-- Results of sweeps: {{C, incarnation, …} of ended sessions, {id, record, …} of wills, {C,
-- incarnation, sent seq, 1 = uncertain, …} of abandoned queues, {C, incarnation, epoch, sent seq, 1 =
-- uncertain, …} of offline members}, the last two of sweep_due only.

local function disconnect_edge(P, edge, now, limit, ended, wills, at)
  local members = call('SRANDMEMBER', P .. 'g:' .. edge, limit)
  for _, C in ipairs(members) do
    local f = session(P, C)
    if f and f.g == edge then
      local incarnation, id, record = disconnect(P, C, f, now, true, false, 0, at)
      if incarnation > 0 then
        ended[#ended + 1] = C
        ended[#ended + 1] = incarnation
      end
      if id ~= '' then
        wills[#wills + 1] = id
        wills[#wills + 1] = record
      end
    else
      call('SREM', P .. 'g:' .. edge, C)
    end
  end
  if call('EXISTS', P .. 'g:' .. edge) == 0 then
    call('HDEL', P .. 'edges', edge)
    call('HDEL', P .. 'gone', edge)
  end
  return #members
end

-- True if an entry of a change log is not after another one.
local function is_read(id, position)
  local ms, n = string.match(id, '(%d+)-(%d+)')
  local read_ms, read_n = string.match(position, '(%d+)-(%d+)')
  ms, read_ms = tonumber(ms), tonumber(read_ms)
  return ms < read_ms or (ms == read_ms and tonumber(n) <= tonumber(read_n))
end

-- True when the sessions of an edge without a lease may be given up: every router has read that it
-- is gone, so nothing takes effect any more that it publishes before it has returned and verified
-- its connections. That is logged first. read_to: the entry that every router has read ('' = there
-- is one router only).
local function may_disconnect(P, edge, read_to)
  if read_to == '' then return true end
  local id = call('HGET', P .. 'gone', edge)
  if id then return is_read(id, read_to) end
  call('HSET', P .. 'gone', edge, log_change(P, 'x', edge))
  return false
end

-- arguments: now, the edge that publishes wills, newest number of a lease, count of edges with a
--   lease, these, limit, (P, entry that every router has read)…
-- Leases may be on another server and have been read earlier. An edge whose lease has a newer number
-- here has begun, or come back, since.
local function sweep_edges(i, last)
  local now, publisher = tonumber(ARGV[i]), ARGV[i + 1]
  local newest, count = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local ended, wills = {}, {}
  local leased = {}
  for at = i + 4, i + 3 + count do leased[ARGV[at]] = true end
  local limit = tonumber(ARGV[i + 4 + count])
  for at = i + 5 + count, last, 2 do
    -- Every partition knows every edge with a lease: if it knows as many, there is no other edge.
    local P, edges = ARGV[at], {}
    if call('HLEN', P .. 'edges') ~= count then edges = call('HGETALL', P .. 'edges') end
    for n = 1, #edges, 2 do
      local edge = edges[n]
      if limit > 0 and not leased[edge] and tonumber(edges[n + 1]) <= newest
        and may_disconnect(P, edge, ARGV[at + 1]) then
        limit = limit - disconnect_edge(P, edge, now, limit, ended, wills, publisher)
      end
    end
  end
  return {ended, wills}
end

-- Claims a will that is due for an edge, until it is published.
local function claim_will(P, id, now, wills, at)
  local record = call('HGET', P .. 'wills', id)
  if not record then return false end
  local epoch, C = string.match(id, '^(%d+):(.*)$')
  local pending = pending_wills(P, C)
  for _, one in ipairs(pending) do
    if one.epoch == epoch then
      -- Its own epoch is fenced, too: only the new edge publishes it.
      move_will(P, C, one, at, string.format('%.0f', tonumber(epoch) + 1), now)
    end
  end
  if #pending > 0 then list_pending(P, C, pending) end
  call('ZADD', P .. 'due', now + CLAIM_MS, 'p' .. id)
  wills[#wills + 1] = id
  wills[#wills + 1] = record
  return true
end

-- Claims an abandoned queue, until all entries in it have been redelivered.
local function claim_abandoned(P, name, now, abandoned)
  local state = call('HGET', P .. 'lost', name)
  if not state then return false end
  if call('EXISTS', P .. 'lost:' .. name) == 0 then
    call('HDEL', P .. 'lost', name)
    return false
  end
  call('ZADD', P .. 'due', now + CLAIM_MS, 'g' .. name)
  local C, incarnation = string.match(name, '^(.*):(%d+)$')
  local sent, uncertain = string.match(state, '^(%d+) (%d)$')
  for _, word in ipairs({C, incarnation, sent, uncertain}) do abandoned[#abandoned + 1] = word end
  return true
end

local function end_or_publish(P, kind, C, now, ended, wills, at)
  local f = session(P, C)
  local over = f and f.g == '' and kind == 's' and f.d and tonumber(f.d) <= now
  local armed = f and f.g == '' and kind == 'w' and f.a and tonumber(f.a) <= now
  if (over or armed) and f.w then
    wills[#wills + 1] = pend_will(P, C, f.e, f.w, now, at)
    wills[#wills + 1] = f.w
  end
  if over then
    discard(P, C, f, now, f.n, f.u == '1')
    call('DEL', P .. 's:' .. C)
    call('ZREM', P .. 'due', 'w' .. C, 'm' .. C)
    ended[#ended + 1] = C
    ended[#ended + 1] = f.i
  elseif armed then
    call('HDEL', P .. 's:' .. C, 'w', 'l', 'a')
  end
end

-- arguments: now, the edge that publishes wills, limit, P…
local function sweep_due(i, last)
  local now, publisher, limit = tonumber(ARGV[i]), ARGV[i + 1], tonumber(ARGV[i + 2])
  local ended, wills, abandoned, members = {}, {}, {}, {}
  -- Callers begin with another partition each time, so that every log is trimmed.
  if last > i + 2 then trim_log(ARGV[i + 3]) end
  for at = i + 3, last do
    if limit <= 0 then break end
    local P = ARGV[at]
    local due = call('ZRANGEBYSCORE', P .. 'due', '-inf', now, 'LIMIT', 0, limit)
    limit = limit - #due
    for _, member in ipairs(due) do
      local kind, name, claimed = string.sub(member, 1, 1), string.sub(member, 2), false
      if kind == 'p' then
        claimed = claim_will(P, name, now, wills, publisher)
      elseif kind == 'g' then
        claimed = claim_abandoned(P, name, now, abandoned)
      elseif kind == 'm' then
        claimed = claim_member(P, name, now, members)
      else
        end_or_publish(P, kind, name, now, ended, wills, publisher)
      end
      if not claimed then call('ZREM', P .. 'due', member) end
    end
  end
  return {ended, wills, abandoned, members}
end

-- arguments: P, C, incarnation, seq, now; result: 1 = there are entries after the seq
local function trim_abandoned(i)
  local P, name, now = ARGV[i], ARGV[i + 1] .. ':' .. ARGV[i + 2], tonumber(ARGV[i + 4])
  local q = P .. 'lost:' .. name
  call('XTRIM', q, 'MINID', string.format('1-%.0f', tonumber(ARGV[i + 3]) + 1))
  if call('XLEN', q) > 0 then
    call('ZADD', P .. 'due', 'XX', now + CLAIM_MS, 'g' .. name)
    return 1
  end
  call('UNLINK', q)
  call('HDEL', P .. 'lost', name)
  call('ZREM', P .. 'due', 'g' .. name)
  return 0
end

-- arguments: (P, will id)…; result: 1
local function will_published(i, last)
  for at = i, last, 2 do
    local P, id = ARGV[at], ARGV[at + 1]
    call('HDEL', P .. 'wills', id)
    call('ZREM', P .. 'due', 'p' .. id)
    local epoch, C = string.match(id, '^(%d+):(.*)$')
    local left = {}
    for _, one in ipairs(pending_wills(P, C)) do
      if one.epoch ~= epoch then left[#left + 1] = one end
    end
    list_pending(P, C, left)
  end
  return 1
end

-- arguments: edge, (P, will id)…; result: for each 1 = it is pending, and this edge publishes it
local function verify_wills(i, last)
  local results = {}
  for at = i + 1, last, 2 do
    local epoch, C = string.match(ARGV[at + 1], '^(%d+):(.*)$')
    local here = 0
    for _, one in ipairs(pending_wills(ARGV[at], C)) do
      if one.epoch == epoch and one.at == ARGV[i] then here = 1 end
    end
    results[#results + 1] = here
  end
  return results
end

-- arguments: user, P…; result: for each partition how many durable sessions the user has
local function user_sessions(i, last)
  local results = {}
  for at = i + 1, last do
    results[#results + 1] = tonumber(call('HGET', ARGV[at] .. 'users', ARGV[i]) or 0)
  end
  return results
end

-- arguments: owner, P…; result: for each partition {messages, bytes of this owner, of all owners}
local function retained_use(i, last)
  local results, owner = {}, ARGV[i]
  for at = i + 1, last do
    local found = call('HMGET', ARGV[at] .. 'retained-use', 'n' .. owner, 'b' .. owner, 'n', 'b')
    for n = 1, 4 do found[n] = tonumber(found[n] or 0) end
    results[#results + 1] = found
  end
  return results
end

-- arguments: now, limit, P…; result: the topics whose retained message is gone
local function expired_retained(i, last)
  local now, limit, topics = ARGV[i], tonumber(ARGV[i + 1]), {}
  for at = i + 2, last do
    if #topics >= limit then return topics end
    local P = ARGV[at]
    local due = call('ZRANGEBYSCORE', P .. 'retained-due', '-inf', now, 'LIMIT', 0, limit - #topics)
    for _, topic in ipairs(due) do
      remove_retained(P, topic)
      topics[#topics + 1] = topic
    end
  end
  return topics
end
