-- Runs in each Envoy worker, once for each request that may name a model (decision 69), in one script with `messages.lua`
-- before it.
--
-- The route metadata says by name what happens: nothing (unknown), true (the load balancer considers only instances that
-- serve the model), or `why` it is refused. An alias has been replaced before, by `frames.lua`.

local READ = "envoy.filters.http.grpc_field_extraction" -- where another filter puts the name in a stream's first message
local BALANCER, KEY = "envoy.lb", "model" -- where the load balancer looks for it
local RULE = "model:" -- before a name in the route metadata
local LONGEST = 1020 -- bytes of a name that is looked up
local SHOWN = 255 -- and that a refusal repeats
local BEGINNING = 20 -- bytes in which a field's key and length end
local MOST = 65536 -- fields of a request
local INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = "3", "5", "12", "13", "14"

-- The bytes of a field's contents and where they begin in `head`, given what follows its key; nil if it is malformed.
local function extent(head, kind, after)
  if kind == TEXT then
    return varint(head, after)
  elseif kind == 0 then
    local _, begin = varint(head, after)
    return begin and 0, begin
  elseif kind == 1 or kind == 5 then
    return kind == 1 and 8 or 4, after
  end
end

-- The model that a framed message names, empty if none. Of a field that is there twice the last one counts. Of a large
-- field only the beginning is copied.
local function name_in(buffer)
  local size, at, found = buffer:length(), FRAME, ""
  for _ = 1, MOST do
    local head = at < size and buffer:getBytes(at, math.min(BEGINNING, size - at)) or ""
    local key, after = varint(head, 1)
    local length, begin = extent(head, key and key % 8, after)
    if not length or at + begin - 1 + length > size then
      break
    end
    at = at + begin - 1
    if key == 8 * NAME + TEXT then
      found = buffer:getBytes(at, math.min(length, LONGEST))
    end
    at = at + length
  end
  return found
end

-- The model that a request names, empty if none; nil if it has been refused.
local function named(handle)
  if handle:headers():get(":path") == "@STREAM@" then
    local read = handle:streamInfo():dynamicMetadata():get(READ)
    return read and read.model_name and read.model_name[1] or ""
  end
  local buffer = handle:body(true)
  if buffer:length() > 0 and is_compressed(buffer:getBytes(0, 1)) then
    refuse(handle, UNIMPLEMENTED, "a request that is routed by its model has to come uncompressed")
    return nil
  end
  return name_in(buffer)
end

-- As text that a gRPC status message accepts.
local function encoded(text)
  return (text:gsub("[^ -$&-~]", function(byte)
    return ("%%%02X"):format(byte:byte())
  end))
end

local function route(handle)
  local name = named(handle)
  if not name or name == "" then
    return
  end
  local rules = handle:metadata()
  local rule = rules:get(RULE .. name)
  local shown = "model '" .. encoded(name:sub(1, SHOWN)) .. "'"
  if rule == true or (not rule and rules:get("open")) then
    handle:streamInfo():dynamicMetadata():set(BALANCER, KEY, name)
  elseif not rule then
    local service = rules:get("service") or ""
    refuse(handle, NOT_FOUND, shown .. " is unknown: no instance of " .. service .. " names it")
  elseif rule.why then
    refuse(handle, UNAVAILABLE, shown .. " is not available: " .. encoded(rule.why))
  else
    refuse(handle, INVALID_ARGUMENT, shown .. " is an alias: it has to be the first field of the request")
  end
end

function envoy_on_request(handle)
  local done, why = pcall(route, handle)
  if not done then
    handle:logErr("models: " .. tostring(why))
    refuse(handle, INTERNAL, "the request cannot be routed by its model: see Envoy's log")
  end
end
