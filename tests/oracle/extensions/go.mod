module oracle/extensions

go 1.26

require github.com/siderolabs/talos/pkg/machinery v1.11.6
