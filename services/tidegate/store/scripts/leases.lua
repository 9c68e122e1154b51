-- Leases of edges and routers, and fences of router instances. G is the prefix of what belongs to no
-- partition.

local FENCE_S = 86400

local function server_ms()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The newest broker time that a router has had, 0 = none, and the time of the server then.
local function stored_time(G)
  local now, at = string.match(call('GET', G .. 'clock') or '', '^(%d+) (%d+)$')
  return tonumber(now or 0), tonumber(at or 0)
end

-- Stores a router's time, and returns the broker time that it has from now on, and the time of the
-- server. A router that was suspended is behind.
local function advance_time(G, now)
  now = math.max(now, (stored_time(G)))
  local at = server_ms()
  call('SET', G .. 'clock', string.format('%.0f %.0f', now, at))
  return now, at
end

-- arguments: G; result: the broker time that is stored (0 = none), the time of the server when it
--   was, its time now, how many routers have or had a lease
local function read_time(i)
  local now, at = stored_time(ARGV[i])
  return {now, at, server_ms(), call('HLEN', ARGV[i] .. 'routers')}
end

-- arguments: G, edge, now, how long, number that every partition knows (0 = none)
-- result: {0 = the lease had been there until now, else the number of the new one, broker time, the
--   server's}. A new lease is marked until its number comes back as one that every partition knows.
local function renew_lease(i)
  local G, edge = ARGV[i], ARGV[i + 1]
  local now, at = advance_time(G, tonumber(ARGV[i + 2]))
  local lease = call('HGET', G .. 'edges', edge) or ''
  local ends, number, new = string.match(lease, '^(%d+) (%d+)( ?%*?)$')
  if not ends or tonumber(ends) <= now then
    number, new = call('INCR', G .. 'leases'), ' *'
  elseif number == ARGV[i + 4] then
    new = ''
  end
  lease = string.format('%.0f %s%s', now + tonumber(ARGV[i + 3]), number, new)
  call('HSET', G .. 'edges', edge, lease)
  return {new == '' and 0 or tonumber(number), now, at}
end

-- arguments: edge, number of its lease, P…; result: 1 for each
local function announce_lease(i, last)
  local results = {}
  for at = i + 2, last do
    call('HSET', ARGV[at] .. 'edges', ARGV[i], ARGV[i + 1])
    call('HDEL', ARGV[at] .. 'gone', ARGV[i])
    results[#results + 1] = 1
  end
  return results
end

-- arguments: G, now; result: the newest number of a lease, and every edge that has one
local function leased_edges(i)
  local G, now = ARGV[i], tonumber(ARGV[i + 1])
  local found = {call('GET', G .. 'leases') or 0}
  local leases = call('HGETALL', G .. 'edges')
  for n = 1, #leases, 2 do
    if tonumber(string.match(leases[n + 1], '^%d+')) <= now then
      call('HDEL', G .. 'edges', leases[n])
    else
      found[#found + 1] = leases[n]
    end
  end
  return found
end

-- arguments: (P, C, epoch)…; result: for each 1 = this connection owns its session, 0 = another one
--   does or has, 2 = the store may have lost the session: the connection is of an earlier history, or
--   newer than the session, 3 = there is no session,
--   4 = it has ended, and no other one has followed
local function verify(i, last)
  local results, firsts = {}, {}
  for at = i, last, 3 do
    local P, epoch = ARGV[at], ARGV[at + 2]
    if not firsts[P] then firsts[P] = tonumber(call('HGET', P .. 'history', 'e') or -1) end
    local v = call('HMGET', P .. 's:' .. ARGV[at + 1], 'e', 'g')
    local owns = v[1] == epoch and v[2] ~= ''
    local is_older = v[1] and tonumber(v[1]) < tonumber(epoch)
    if tonumber(epoch) <= firsts[P] or is_older or (firsts[P] < 0 and not owns) then
      results[#results + 1] = 2
    else
      results[#results + 1] = owns and 1 or (not v[1] and 3) or (v[1] == epoch and 4) or 0
    end
  end
  return results
end

-- The group that uses the store, nil = none: '' is a cluster, any other name is one broker that shares
-- the store with no other. Routers of an older version have no group: they are a cluster.
local function user_of(G, now, records, instance)
  local ends, group = string.match(call('GET', G .. 'group') or '', '^(%d+) (.*)$')
  if ends and tonumber(ends) > now then return group end
  for n = 1, #records, 2 do
    local live = tonumber(string.match(records[n + 1], '^%d+')) > now
    if live and records[n] ~= instance then return '' end
  end
end

-- Takes the store for a group, and renews the lease of a router, if there is one; neither while
-- another group uses the store.
--
-- arguments: G, instance ('' = none), now, how long (0 = until now), positions, group
-- result: {broker time, the server's, instance, its record, …} of all; {-1, group that uses it}
local function renew_router(i)
  local key, now, at = ARGV[i] .. 'routers', advance_time(ARGV[i], tonumber(ARGV[i + 2]))
  local ends = string.format('%.0f', now + tonumber(ARGV[i + 3]))
  local instance, group = ARGV[i + 1], ARGV[i + 5]
  local user = user_of(ARGV[i], now, call('HGETALL', key), instance)
  if user and user ~= group then return {-1, user} end
  call('SET', ARGV[i] .. 'group', ends .. ' ' .. group)
  if instance ~= '' then call('HSET', key, instance, ends .. ':' .. ARGV[i + 4]) end
  local records = call('HGETALL', key)
  for n = 1, #records, 2 do
    if tonumber(string.match(records[n + 1], '^%d+')) <= now then call('HDEL', key, records[n]) end
  end
  return {now, at, unpack(records)}
end

-- arguments: writer, P…; result: 1 for each
local function fence_writer(i, last)
  local results = {}
  local fenced = fences_of(ARGV[i], i + 1, last, 1)
  for at = i + 1, last do
    call('SET', ARGV[at] .. 'f:' .. ARGV[i], 1, 'EX', FENCE_S)
    fenced[ARGV[at]] = true
    results[#results + 1] = 1
  end
  return results
end
