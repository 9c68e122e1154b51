-- A promoted replica, or a restarted server, may have lost the last numbers that were given out; a
-- number given twice would make two owners of a session.

local SKIPPED = 1048576

-- arguments: P, the run_id of the server; result: 1 if the partition was last on another server
local function skip_epochs(i)
  local P, server = ARGV[i], ARGV[i + 1]
  if call('GET', P .. 'server') == server then return 0 end
  local found = 0
  for _, counter in ipairs({P .. 'epoch', P .. 'leases'}) do
    if call('EXISTS', counter) == 1 then
      call('INCRBY', counter, SKIPPED)
      found = 1
    end
  end
  if found == 1 then call('SET', P .. 'server', server) end
  return found
end
