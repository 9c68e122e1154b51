-- CONNECT and the end of a connection.

-- A will that is larger is refused, with its CONNECT, when memory is scarce.
local SMALL_WILL_BYTES = 1024

-- arguments: P, C, edge, clean start (0/1), session expiry, now, will ('' = none), will delay, epoch of
--   the connection that may be superseded ('' = any, 0 = none), writer, number of the CONNECT at this
--   edge: with the same number it is a repetition, which changes nothing more ('' = it has none), user,
--   1 = the session of another user is refused, how many durable sessions more the user may have
--   ('' = any number), how often this CONNECT was sent before
-- result: {0, epoch} when another connection has the session, {0, 0} when another user has it, {0, -1}
--   when its user has too many, {0, -2} when a later attempt has been stored, or {0} when the writer is
--   fenced: nothing has changed; {epoch} for a new session that is not durable, else
--   {epoch, incarnation, present, previous edge, previous epoch, discarded incarnation, {will id,
--    record, …}, id of the last log entry that fences another edge ('' = none), sent seq, uncertain,
--    last seq, queued, receipts, released, subscriptions, wraps, retained messages to be sent}
local attached_again, queue_state
local function attach(i)
  local P, C, edge, clean, expiry = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local now, will, delay = tonumber(ARGV[i + 5]), ARGV[i + 6], ARGV[i + 7]
  local s, expected = P .. 's:' .. C, ARGV[i + 8]
  if fences_of(ARGV[i + 9], i, i, 1)[P] then return {0} end
  local number, user = ARGV[i + 10], ARGV[i + 11]
  if is_late(P, C, edge, number, ARGV[i + 14]) then return {0, -2} end
  local f = session(P, C)
  if f and number ~= '' and f.g == edge and (f.k == number or f.k == number .. '+') then
    return attached_again(P, C, f, edge, now)
  end
  if f and f.o and f.o ~= user and ARGV[i + 12] == '1'
    and (f.g ~= '' or not f.d or tonumber(f.d) > now) then
    return {0, 0}
  end
  local left = ARGV[i + 13]
  if left ~= '' and tonumber(left) <= 0 and expiry ~= '0'
    and not (f and f.i ~= '0' and (not f.o or f.o == user)) then
    return {0, -1}
  end
  if f and f.g ~= '' and expected ~= '' and expected ~= f.e then
    return {0, tonumber(f.e)}
  end
  if scarce and #will > SMALL_WILL_BYTES then return redis.error_reply(SCARCE) end
  local epoch = next_epoch(P)
  call('SADD', P .. 'g:' .. edge, C)
  call('HSETNX', P .. 'edges', edge, 0)
  local pending = pending_wills(P, C)
  if not f and expiry == '0' and #pending == 0 then
    if will == '' then
      call('HSET', s, 'e', epoch, 'g', edge, 'i', '0', 'x', '0', 'n', '0', 'k', number,
        'o', user)
    else
      call('HSET', s, 'e', epoch, 'g', edge, 'i', '0', 'x', '0', 'n', '0', 'k', number,
        'o', user, 'w', will, 'l', delay)
    end
    return {epoch}
  end

  local incarnation, discarded, sent, uncertain = 0, 0, 0, 0
  local previous_edge, previous_epoch = '', 0
  local wills, fenced = move_wills(P, C, pending, edge, epoch, now)
  if f then
    local live = f.g ~= ''
    local ended = clean == '1' or f.i == '0' or (live and f.x == '0')
      or (not live and f.d and tonumber(f.d) <= now)
    local overdue = (live and f.l == '0') or (not live and f.a and tonumber(f.a) <= now)
    if f.w and (ended or overdue) then
      wills[#wills + 1] = pend_will(P, C, f.e, f.w, now, edge)
      wills[#wills + 1] = f.w
    end
    if live then
      previous_edge, previous_epoch = f.g, tonumber(f.e)
      if f.g ~= edge then
        call('SREM', P .. 'g:' .. f.g, C)
        fenced = fence(P, C, f.g, epoch)
      end
    else
      call('ZREM', P .. 'due', 's' .. C, 'w' .. C, 'm' .. C)
    end
    if ended then
      discarded = tonumber(f.i)
      if discarded > 0 then discard(P, C, f, now, f.n, f.u == '1') end
    else
      incarnation, sent, uncertain = tonumber(f.i), tonumber(f.n), tonumber(f.u)
    end
    call('DEL', s)
  end

  local present, state = 0, {last = 0, queued = 0, receipts = '', released = {}, subscriptions = {},
    wraps = {}, replays = {}}
  if incarnation > 0 then
    present = 1
    if f.o ~= user then
      if f.o then count_session(P, f.o, -1) end
      count_session(P, user, 1)
    end
    state = queue_state(P, C, f.i, sent)
    -- What may have been sent stays so, however often the connection changes from here on.
    if uncertain == 1 then sent = state.last end
  elseif expiry ~= '0' then
    incarnation = epoch
    local q = P .. 'q:' .. C .. ':' .. epoch
    call('XADD', q, '1-0', 'm', '')
    call('XDEL', q, '1-0')
    call('SADD', P .. 'durable', C)
    count_session(P, user, 1)
  end
  if present == 1 then number = number .. '+' end
  call('HSET', s, 'e', epoch, 'g', edge, 'i', incarnation, 'x', expiry, 'n', sent, 'u', '1', 'k',
    number, 'o', user)
  if present == 1 and f.h then call('HSET', s, 'h', 1) end
  if present == 1 and f.v then keep_visit(P, C, f, now) end
  if will ~= '' then call('HSET', s, 'w', will, 'l', delay) end
  return {epoch, incarnation, present, previous_edge, previous_epoch, discarded, wills,
    fenced, sent, uncertain, state.last, state.queued, state.receipts, state.released,
    state.subscriptions, state.wraps, state.replays}
end

-- The result for a CONNECT that has been stored at an earlier attempt: its reply was lost. The epoch
-- stays, and with it whatever has come for the session since. What the first attempt has logged is
-- waited for once more; number + says that it had found a session.
attached_again = function(P, C, f, edge, now)
  local wills = move_wills(P, C, pending_wills(P, C), edge, f.e, now)
  local state = {last = 0, queued = 0, receipts = '', released = {}, subscriptions = {}, wraps = {},
    replays = {}}
  if f.i ~= '0' then state = queue_state(P, C, f.i, f.n) end
  local present = string.sub(f.k, -1) == '+' and 1 or 0
  return {tonumber(f.e), tonumber(f.i), present, '', 0, 0, wills, log_end(P) or '', tonumber(f.n),
    present, state.last, state.queued, state.receipts, state.released, state.subscriptions,
    state.wraps, state.replays}
end

-- What is stored of a durable session beside its connection.
queue_state = function(P, C, incarnation, sent)
  local state, q = {last = 0, queued = 0}, P .. 'q:' .. C .. ':' .. incarnation
  if call('EXISTS', q) == 0 then
    -- Deleted from outside: go on with an empty one, after what has been sent.
    call('XADD', q, '1-' .. sent, 'm', '')
    call('XDEL', q, '1-' .. sent)
  end
  local stream = call('XINFO', 'STREAM', q)
  -- A flat list, in an order that the server chooses.
  for n = 1, #stream, 2 do
    if stream[n] == 'last-generated-id' then
      state.last = tonumber(string.sub(stream[n + 1], 3))
    end
    if stream[n] == 'length' then state.queued = stream[n + 1] end
  end
  state.receipts = call('GET', P .. 'r:' .. C) or ''
  local first = call('HGET', P .. 'history', 'e')
  if first and tonumber(incarnation) <= tonumber(first) then
    -- Exchanges of its client are named anew: what they were named before the store went back, the
    -- queues of others may remember.
    call('HSET', P .. 'w:' .. C, 0, first)
  end
  state.released = call('SMEMBERS', P .. 'o:' .. C)
  state.subscriptions = call('HGETALL', P .. 'b:' .. C)
  state.wraps = call('HGETALL', P .. 'w:' .. C)
  state.replays = call('HGETALL', P .. 'y:' .. C)
  return state
end

-- arguments: P, C, edge, number of a CONNECT whose outcome the edge does not know, how often it was sent,
--   now
-- result: 1. If it has been stored, its connection ends without its will; no earlier attempt is stored.
local function withdraw_connect(i)
  local P, C, edge, number = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  is_late(P, C, edge, number, ARGV[i + 4])
  local f = session(P, C)
  if f and f.g == edge and (f.k == number or f.k == number .. '+') then
    disconnect(P, C, f, tonumber(ARGV[i + 5]), false, true, tonumber(f.n), edge)
  end
  return 1
end

-- arguments: P, C, epoch, now, publish will (0/1), session expiry ('' = as it was), sent seq
-- result: 0 = fenced, 1 = done, else {incarnation that ended, will id, will record}
local function detach(i)
  local P, C = ARGV[i], ARGV[i + 1]
  local f = session(P, C)
  if not f or f.e ~= ARGV[i + 2] or f.g == '' then return 0 end
  if ARGV[i + 5] ~= '' then f.x = ARGV[i + 5] end
  local now, sent = tonumber(ARGV[i + 3]), tonumber(ARGV[i + 6])
  local ended, id, record = disconnect(P, C, f, now, ARGV[i + 4] == '1', true, sent, f.g)
  if ended == 0 and id == '' then return 1 end
  return {ended, id, record}
end

-- arguments: P, how many; result: the first of so many epochs, one after the other, for connections that
--   are not stored
local function reserve_epochs(i)
  local first = next_epoch(ARGV[i])
  call('SET', ARGV[i] .. 'epoch', string.format('%.0f', first + ARGV[i + 1] - 1))
  return first
end

-- arguments: P, C, epoch, session expiry; result: 0 = fenced, 1 = done
local function set_expiry(i)
  local P, C = ARGV[i], ARGV[i + 1]
  if not owned(P, C, ARGV[i + 2]) then return 0 end
  call('HSET', P .. 's:' .. C, 'x', ARGV[i + 3])
  return 1
end
