-- What has to happen without anybody asking: lost edges, ended sessions, wills whose time has come.
-- Results of both sweeps: {{C, incarnation, …} of ended sessions, {id, record, …} of wills}.

local function lose_sessions(P, edge, now, limit, ended, wills)
  local members = call('SRANDMEMBER', P .. 'g:' .. edge, limit)
  for _, C in ipairs(members) do
    local f = session(P, C)
    if f and f.g == edge then
      local incarnation, id, record = disconnect(P, C, f, now, true, false, 0)
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
  if call('EXISTS', P .. 'g:' .. edge) == 0 then call('HDEL', P .. 'edges', edge) end
  return #members
end

-- arguments: now, newest number of a lease, count of living edges, these, limit, P…
-- Leases are kept elsewhere, so that what they said is old when it comes here. An edge whose lease
-- has a number that is newer lives: it has come, or come back, since.
local function sweep_edges(i, last)
  local now, newest, count = tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local ended, wills = {}, {}
  local lives = {}
  for at = i + 3, i + 2 + count do lives[ARGV[at]] = true end
  local limit = tonumber(ARGV[i + 3 + count])
  for at = i + 4 + count, last do
    local edges = call('HGETALL', ARGV[at] .. 'edges')
    for n = 1, #edges, 2 do
      local edge = edges[n]
      if limit > 0 and not lives[edge] and tonumber(edges[n + 1]) <= newest then
        limit = limit - lose_sessions(ARGV[at], edge, now, limit, ended, wills)
      end
    end
  end
  return {ended, wills}
end

local function sweep_member(P, member, now, ended, wills)
  local kind, name = string.sub(member, 1, 1), string.sub(member, 2)
  if kind == 'p' then
    local record = call('HGET', P .. 'wills', name)
    if record then
      call('ZADD', P .. 'due', now + CLAIM_MS, member)
      wills[#wills + 1] = name
      wills[#wills + 1] = record
      return
    end
  else
    local f = session(P, name)
    local over = f and f.g == '' and kind == 's' and f.d and tonumber(f.d) <= now
    local armed = f and f.g == '' and kind == 'w' and f.a and tonumber(f.a) <= now
    if (over or armed) and f.w then
      wills[#wills + 1] = pend_will(P, name, f.e, f.w, now)
      wills[#wills + 1] = f.w
    end
    if over then
      discard(P, name, f.i)
      call('DEL', P .. 's:' .. name)
      call('ZREM', P .. 'due', 'w' .. name)
      ended[#ended + 1] = name
      ended[#ended + 1] = f.i
    elseif armed then
      call('HDEL', P .. 's:' .. name, 'w', 'l', 'a')
    end
  end
  call('ZREM', P .. 'due', member)
end

-- arguments: now, limit, P…
local function sweep_due(i, last)
  local now, limit = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
  local ended, wills = {}, {}
  -- Callers begin with another partition each time, so that each has its turn.
  if last > i + 1 then trim_log(ARGV[i + 2], now) end
  for at = i + 2, last do
    if limit <= 0 then break end
    local P = ARGV[at]
    local due = call('ZRANGEBYSCORE', P .. 'due', '-inf', now, 'LIMIT', 0, limit)
    limit = limit - #due
    for _, member in ipairs(due) do sweep_member(P, member, now, ended, wills) end
  end
  return {ended, wills}
end

-- arguments: (P, will id)…; result: 1
local function will_published(i, last)
  for at = i, last, 2 do
    call('HDEL', ARGV[at] .. 'wills', ARGV[at + 1])
    call('ZREM', ARGV[at] .. 'due', 'p' .. ARGV[at + 1])
  end
  return 1
end
