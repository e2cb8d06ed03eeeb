-- Runs in each Envoy worker, once for each request that names a model (decision 69), in one script with `messages.lua`
-- before it, and after the filter that reads the name from the first message.
--
-- The route metadata says by name what happens: nothing (unknown), true (the model itself answers), `to` (another model
-- answers), or `why` (none can). The load balancer then considers only instances that serve the model.

local READ = "envoy.filters.http.grpc_field_extraction" -- where the filter before this one puts the name
local BALANCER, KEY = "envoy.lb", "model" -- where the load balancer looks for it
local RULE = "model:" -- before a name in the route metadata
local LONGEST = 255 -- bytes of a name that a policy may have, and that a refusal repeats
local NOT_FOUND, INTERNAL, UNAVAILABLE = "5", "13", "14"

-- The model that a request names; nil if its first message could not be read, empty if it is about all models.
local function named(handle)
  local read = handle:streamInfo():dynamicMetadata():get(READ)
  local values = read and (read.model_name or read.name)
  return values and values[1]
end

-- As text that a gRPC status message accepts.
local function encoded(text)
  return (text:gsub("[^ -$&-~]", function(byte)
    return ("%%%02X"):format(byte:byte())
  end))
end

local function four_bytes(value)
  local found = ""
  for _ = 1, 4 do
    found, value = string.char(value % 256) .. found, math.floor(value / 256)
  end
  return found
end

-- The name at the beginning of a framed message, where every known client writes it; empty if it is elsewhere, or longer
-- than any that a policy has. Nil while too little of the message has come.
local function name_in(text, at)
  local length = length_of(text:sub(at, at + FRAME - 1))
  if not length or (length > FRAME and #text < at + FRAME) then
    return nil
  elseif length == FRAME or text:byte(at) ~= 0 or text:byte(at + FRAME) ~= 8 * NAME + TEXT then
    return ""
  end
  local size, begin = varint(text, at + FRAME + 1)
  if not size then -- a size has two bytes at most, or the name is too long
    return #text < at + FRAME + 2 and length > FRAME + 2 and nil or ""
  elseif size > LONGEST then
    return ""
  elseif #text < begin + size - 1 then
    return begin + size <= at + length and nil or ""
  end
  return text:sub(begin, begin + size - 1)
end

-- Replaces names in the messages of a request as they come. Of a protobuf field that is there twice the last one counts,
-- so the new name follows each message, whatever its size. `first` replaces the name in the first message.
local function replace_names(handle, first)
  local pending, left, tail = "", 0, ""
  for piece in handle:bodyChunks() do
    local size = piece:length()
    if left > size then -- the middle of a large message passes as it is
      left = left - size
    elseif size > 0 then
      local text = pending .. piece:getBytes(0, size)
      local out, at = {}, 1
      pending = ""
      while at <= #text do
        if left == 0 then
          local name = name_in(text, at)
          if not name then
            pending = text:sub(at)
            break
          end
          local rule = name ~= "" and handle:metadata():get(RULE .. name)
          local to = first or (type(rule) == "table" and rule.to)
          left, first = length_of(text:sub(at, at + FRAME - 1)) - FRAME, nil
          tail = to and text_field(NAME, to) or ""
          out[#out + 1] = text:sub(at, at) .. four_bytes(left + #tail)
          at = at + FRAME
        end
        local part = math.min(left, #text - at + 1)
        out[#out + 1] = text:sub(at, at + part - 1)
        at, left = at + part, left - part
        if left == 0 then
          out[#out + 1], tail = tail, ""
        end
      end
      piece:setBytes(table.concat(out))
    end
  end
end

local function route(handle)
  local name = named(handle)
  if not name or name == "" then
    return
  end
  local rules = handle:metadata()
  local rule = rules:get(RULE .. name)
  local service = rules:get("service") or ""
  local shown = encoded(name:sub(1, LONGEST))
  if not rule and not rules:get("open") then
    refuse(handle, NOT_FOUND, "model '" .. shown .. "' is unknown: no instance of " .. service .. " names it")
    return
  end
  local to, why
  if type(rule) == "table" then
    to, why = rule.to, rule.why
  end
  if why then
    refuse(handle, UNAVAILABLE, "model '" .. shown .. "' is not available: " .. encoded(why))
    return
  end
  handle:streamInfo():dynamicMetadata():set(BALANCER, KEY, to or name)
  if to or (rules:get("renames") and handle:headers():get(":path") == "@STREAM@") then
    replace_names(handle, to)
  end
end

function envoy_on_request(handle)
  local done, why = pcall(route, handle)
  if not done then
    handle:logErr("models: " .. tostring(why))
    refuse(handle, INTERNAL, "the request cannot be routed by its model: see Envoy's log")
  end
end
