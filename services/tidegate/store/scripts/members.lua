-- Offline members: durable sessions without a connection that have shared subscriptions. Messages that
-- were queued for them through these can be redelivered to other members.

-- Claims the queue of such a member, until a router sets when it is checked again. It deletes first: a
-- sweep must reach the sessions that end when memory is full.
local function claim_member(P, C, now, members)
  local f = session(P, C)
  if not f or f.g ~= '' or not f.h or call('XLEN', P .. 'q:' .. C .. ':' .. f.i) == 0 then
    return false
  end
  call('ZREM', P .. 'due', 'm' .. C)
  call('ZADD', P .. 'due', now + CLAIM_MS, 'm' .. C)
  for _, word in ipairs({C, f.i, f.e, f.n, f.u}) do members[#members + 1] = word end
  return true
end

-- Moves entries out of a queue. They become an abandoned queue of their own under a number that is
-- used for nothing else, claimed by the caller. Arguments of the script from first to last are the
-- seqs; state is the sent seq and 1 = uncertain. Returns the number, 0 = nothing was moved.
local function move_entries(P, C, f, now, state, first, last)
  local q, ids, seqs, number, name = P .. 'q:' .. C .. ':' .. f.i, {}, {}, 0, nil
  for at = first, last do
    local id = '1-' .. ARGV[at]
    local entry = call('XRANGE', q, id, id)[1]
    if entry then
      if not name then
        number = next_epoch(P)
        name = C .. ':' .. number
      end
      call('XADD', P .. 'lost:' .. name, id, 'm', entry[2][2])
      ids[#ids + 1] = id
      seqs[#seqs + 1] = ARGV[at]
    end
  end
  if name then
    call('EXPIRE', P .. 'lost:' .. name, ABANDONED_S)
    call('HSET', P .. 'lost', name, state)
    call('ZADD', P .. 'due', now + CLAIM_MS, 'g' .. name)
    lengths[q] = nil
    call('XDEL', q, unpack(ids))
    if f.v then call('ZREM', P .. 'v:' .. C .. ':' .. f.i, unpack(seqs)) end
  end
  return number
end

-- Moves entries of an offline member.
--
-- arguments: P, C, epoch, now, when to check the queue again (0 = never), seq…
-- result: -1 = the client is connected again or the session has ended, else the number, 0 = nothing
--   was moved
local function abandon_entries(i, last)
  local P, C, now, again = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 3]), ARGV[i + 4]
  local f = session(P, C)
  if not f or f.e ~= ARGV[i + 2] or f.g ~= '' then return -1 end
  local number = move_entries(P, C, f, now, f.n .. ' ' .. f.u, i + 5, last)
  if again == '0' then
    call('ZREM', P .. 'due', 'm' .. C)
  else
    call('ZADD', P .. 'due', again, 'm' .. C)
  end
  return number
end

-- Moves entries of a connected member that it may not read.
--
-- arguments: P, C, epoch, now, sent seq, seq…
-- result: -1 = fenced, else the number, 0 = nothing was moved
local function return_entries(i, last)
  local P, C = ARGV[i], ARGV[i + 1]
  local f = session(P, C)
  if not f or f.e ~= ARGV[i + 2] or f.g == '' then return -1 end
  return move_entries(P, C, f, tonumber(ARGV[i + 3]), ARGV[i + 4] .. ' 0', i + 5, last)
end

-- Schedules a check of offline members' queues; not of members that are connected, or of which a
-- check is due earlier.
--
-- arguments: now, (P, C)…; result: 1
local function schedule_checks(i, last)
  for at = i + 1, last, 2 do
    local P, C = ARGV[at], ARGV[at + 1]
    local v = call('HMGET', P .. 's:' .. C, 'g', 'h')
    if v[1] == '' and v[2] then
      call('ZADD', P .. 'due', 'LT', tonumber(ARGV[i]) + GRACE_MS, 'm' .. C)
    end
  end
  return 1
end
